# SPDX-License-Identifier: MIT
"""The hook with which an experiment replaces a part: the parameter `experiment` of a node."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

PACKAGE = "efn_ros.experiments"
EXPERIMENT = "experiment"  # the parameter that names an experiment; empty or missing: none
OPTIONS = "experiment_options."  # prefix of the names of its parameters


def experiments() -> list[str]:
    """Return the names of all experiments."""
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)]


def load_experiment(name: str, offers: str) -> ModuleType:
    """Import an experiment.

    Args:
        name: Of the experiment.
        offers: Function that it must have.

    Raises:
        ValueError: There is no experiment of that name, or it lacks the function.
    """
    if name not in experiments():
        raise ValueError(f"experiment {name!r} is unknown; choose one of {', '.join(map(repr, experiments()))}")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if not hasattr(module, offers):
        raise ValueError(f"experiment {name!r} offers no {offers}; leave it out of this node's parameters")
    return module


def has_executable(name: str) -> bool:
    """Whether an experiment has an executable of its own."""
    return importlib.util.find_spec(f"{PACKAGE}.{name}.node") is not None


def node_module(executable: str) -> str:
    """Return the module of an executable, which may be a node of an experiment."""
    return f"{PACKAGE}.{executable}.node" if executable in experiments() else f"efn_ros.nodes.{executable}"
