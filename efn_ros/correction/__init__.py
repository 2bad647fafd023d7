# SPDX-License-Identifier: MIT
"""From the base action and the recalled experience to the action to execute, within every limit."""

from efn_ros.correction.corrector import Corrector
from efn_ros.correction.limits import ActionLimits
from efn_ros.correction.recalled_action import RecalledAction

__all__ = ["ActionLimits", "Corrector", "RecalledAction"]
