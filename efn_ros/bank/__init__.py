"""The experience bank: what is remembered of every rollout, how it is kept and how it is recalled.

`Projection` makes the compact form of visual tokens, `RolloutRecorder` gathers an episode, `BankWriter` makes it
durable, `BankReader` reads it back and `Retriever` recalls, for each decision, the steps most like it.
"""

from efn_ros.bank.catalogue import RolloutRecord
from efn_ros.bank.errors import (
    BankCorruptionError,
    BankError,
    BankFormatError,
    BankLockedError,
    BankProjectionError,
    BankWriteError,
)
from efn_ros.bank.keys import mean_max_key
from efn_ros.bank.reader import BankReader, Snapshot, StoredRollout
from efn_ros.bank.recorder import RolloutRecorder
from efn_ros.bank.retrieval import RecallConfig, Retriever
from efn_ros.bank.sketches import Projection, quantise
from efn_ros.bank.writer import BankWriter

__all__ = [
    "BankCorruptionError",
    "BankError",
    "BankFormatError",
    "BankLockedError",
    "BankProjectionError",
    "BankReader",
    "BankWriteError",
    "BankWriter",
    "Projection",
    "RecallConfig",
    "Retriever",
    "RolloutRecord",
    "RolloutRecorder",
    "Snapshot",
    "StoredRollout",
    "mean_max_key",
    "quantise",
]
