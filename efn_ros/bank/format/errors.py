# SPDX-License-Identifier: MIT
"""Errors of the experience bank."""

from __future__ import annotations


class BankError(Exception):
    """Base class of all errors of a bank."""


class BankLockedError(BankError):
    """Another writer has the bank open."""


class BankFormatError(BankError):
    """The file is no bank, or a bank of a newer format."""


class BankProjectionError(BankError, ValueError):
    """The bank was made with another projection, so its keys cannot be compared."""


class BankCorruptionError(BankError):
    """A payload is missing, or is not what was written."""


class BankUnavailableError(BankError, OSError):
    """The disk, or a lock on the catalogue, prevents reading now; that is no sign of corruption."""


class BankWriteError(BankError, OSError):
    """A change could not be made durable; the bank is as it was before."""
