"""From recalled experience to a residual on the frozen policy's action."""

from pathlib import Path

from efn_ros.efn.corrector import Corrector
from efn_ros.efn.nonparametric import RecalledAction

__all__ = ["Corrector", "RecalledAction"]

PACKAGED = Path(__file__).resolve().parent / "checkpoints"  # networks that come with the package
WEIGHTS = "model.safetensors"  # of a network, in the directory of its checkpoint
