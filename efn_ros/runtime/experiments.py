"""The one hook by which an experiment takes the place of a part: a node's parameter `experiment`."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

PACKAGE = "efn_ros.experiments"
EXPERIMENT = "experiment"  # the parameter that names one; empty or missing: none
OPTIONS = "experiment_options."  # begins the names of its parameters


def experiments() -> list[str]:
    """Return the names of all experiments."""
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)]


def load_experiment(name: str, offers: str) -> ModuleType:
    """Import an experiment that offers a function.

    Raises:
        ValueError: There is no experiment of that name, or it does not offer it.
    """
    if name not in experiments():
        raise ValueError(f"experiment {name!r} is unknown; there are {', '.join(map(repr, experiments()))}")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if not hasattr(module, offers):
        raise ValueError(f"experiment {name!r} offers no {offers}; leave it out of this node's parameters")
    return module


def node_module(executable: str) -> str:
    """Return the module of an executable, an experiment's own node among them."""
    return f"{PACKAGE}.{executable}.node" if executable in experiments() else f"efn_ros.nodes.{executable}"
