# SPDX-License-Identifier: MIT
"""The experience bank: stored rollouts on disk.

`RolloutRecorder` assembles the rollout of an episode, `BankWriter` stores it durably, and `BankReader` reads a
`Snapshot` of `StoredRollout`s.
"""

from efn_ros.bank.format.catalogue import RolloutRecord
from efn_ros.bank.format.errors import (
    BankCorruptionError,
    BankError,
    BankFormatError,
    BankLockedError,
    BankProjectionError,
    BankWriteError,
)
from efn_ros.bank.store.reader import BankReader
from efn_ros.bank.store.recorder import RolloutRecorder
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.bank.store.snapshot import Snapshot
from efn_ros.bank.store.writer import BankWriter

__all__ = [
    "BankCorruptionError",
    "BankError",
    "BankFormatError",
    "BankLockedError",
    "BankProjectionError",
    "BankReader",
    "BankWriteError",
    "BankWriter",
    "RolloutRecord",
    "RolloutRecorder",
    "Snapshot",
    "StoredRollout",
]
