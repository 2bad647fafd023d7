"""Frozen vision-language-action policies: the interface, and one file a backbone."""

from efn_ros.policies.policy import FrozenPolicy, PolicyOutput, PolicySpec
from efn_ros.policies.registry import load_policy

__all__ = ["FrozenPolicy", "PolicyOutput", "PolicySpec", "load_policy"]
