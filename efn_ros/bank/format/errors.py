"""What can be wrong with a bank, by name."""

from __future__ import annotations


class BankError(Exception):
    """Anything below; never raised itself."""


class BankLockedError(BankError):
    """Another writer has the bank open."""


class BankFormatError(BankError):
    """The file is not a bank, or one of a newer format than this program knows."""


class BankProjectionError(BankError, ValueError):
    """The bank was made with another projection, so its keys cannot be compared."""


class BankCorruptionError(BankError):
    """A payload is missing, or not what was written."""


class BankUnavailableError(BankError, OSError):
    """The disk, or a lock on the catalogue, does not let it be read now; nothing is said of what is written."""


class BankWriteError(BankError, OSError):
    """The rollout could not be made durable; the bank is as it was before."""
