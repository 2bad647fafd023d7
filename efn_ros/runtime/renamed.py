# SPDX-License-Identifier: MIT
"""Parameters that had other names before version 0.2; the old names work for one version, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

# Executable -> old name -> new name. A name that ends with "." stands for all names with this prefix.
RENAMED: dict[str, dict[str, str]] = {
    "experience_retrieval": {
        "rollouts": "max_rollouts",
        "steps": "max_steps",
        "context": "random_steps",
        "follow": "reference_margin",
        "outcomes": "success_model_rollouts",
    },
    "efn_corrector": {"exploration.rate": "exploration.episode_fraction"},
    "vla_policy": {
        "sway.posture": "sine.posture",
        "sway.amplitude": "sine.amplitude",
        "sway.rate_hz": "sine.frequency_hz",
        "sway.rows_hz": "sine.action_rate_hz",
    },
    "efn_trainer": {
        "episode_share": "cpu_share",
        "held_out": "held_out_fraction",
        "least_new": "min_new_rollouts",
        "most_rollouts": "max_rollouts",
        "batch": "batch_size",
        "nearness": "proximal_weight",
        "anchor": "base_weight",
        "margin": "min_improvement",
        "least_held_out": "min_held_out_successes",
        "most_change": "max_change",
        "kept": "kept_candidates",
    },
    "agibot_g1_bridge": {"patience.": "timeouts."},
    "trajectory_bridge": {"patience.": "timeouts."},
    "agibot_g1_driver": {"judge_rates": "check_rates"},
}
# Executable -> name -> old value -> new value.
VALUES: dict[str, dict[str, dict[str, str]]] = {
    "vla_policy": {"policy": {"sway": "sine"}},
    "efn_trainer": {"rule": {"when proven": "when accepted"}},
}


def current_name(executable: str, name: str) -> str:
    """Return the present name of a parameter of an executable."""
    for old, new in RENAMED.get(executable, {}).items():
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name.removeprefix(old) if old.endswith(".") else new
    return name


def current_parameters(executable: str, parameters: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return parameters under their present names and with their present values, and warn of each old one.

    Args:
        executable: Whose parameters they are.
        parameters: By name.
        where: Begins each warning, such as the name of a file.
    """
    renamed = {}
    for name, value in parameters.items():
        new, values = current_name(executable, name), VALUES.get(executable, {}).get(name, {})
        new_value = values.get(value, value) if isinstance(value, str) else value
        if new != name or new_value != value:
            warnings.warn(
                f"{where}{name}: {value} of {executable} is now {new}: {new_value}; version 0.3 drops the old form",
                FutureWarning,
                stacklevel=3,
            )
        renamed[new] = new_value
    return renamed
