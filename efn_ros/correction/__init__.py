"""From the base action and recalled experience to the action that goes out, within every limit."""

from efn_ros.correction.corrector import Corrector
from efn_ros.correction.limits import ActionLimits
from efn_ros.correction.recalled_action import RecalledAction

__all__ = ["ActionLimits", "Corrector", "RecalledAction"]
