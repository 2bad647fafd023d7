"""From recalled experience to a residual on the frozen policy's action."""

from efn_ros.efn.corrector import Corrector
from efn_ros.efn.nonparametric import RecalledAction

__all__ = ["Corrector", "RecalledAction"]
