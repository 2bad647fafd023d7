"""The experience bank: what is remembered of every rollout, how it is kept and how it is recalled.

`Projection` makes the compact form of visual tokens, `RolloutRecorder` gathers an episode, `BankWriter` makes it
durable, `BankReader` reads it back and `Retriever` recalls, for each decision, the steps most like it.
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
