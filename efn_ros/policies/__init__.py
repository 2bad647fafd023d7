# SPDX-License-Identifier: MIT
"""Frozen vision-language-action policies: the interface, and one file or folder per backbone."""

from efn_ros.policies.policy import FrozenPolicy, PolicyOutput, PolicySpec
from efn_ros.policies.registry import load_policy

__all__ = ["FrozenPolicy", "PolicyOutput", "PolicySpec", "load_policy"]
