# SPDX-License-Identifier: MIT
"""Options that several commands have, and the tasks that they select."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from efn_ros.commands._renamed import add_renamed


def add_graph_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for a graph and its parameters."""
    parser.add_argument("--graph", default="metaworld_sim", help="name in config/graphs, or path of a document")
    add_renamed(parser, "--robot", "--graph")
    parser.add_argument("--params-file", action="append", default=[], help="parameters laid over the graph's own")


def add_task_option(parser: argparse._ActionsContainer) -> None:
    """Add the option for the tasks of a simulator."""
    parser.add_argument("--tasks", nargs="+", help="names or patterns; default: all of the simulator's")


def select_tasks(world: Mapping[str, Any], patterns: Sequence[str] | None) -> list[str]:
    """Return the tasks of a simulated world that match patterns; all without any.

    Args:
        world: Parameters of sim_bridge.
        patterns: Names of tasks, or patterns such as libero_goal/*.

    Raises:
        SystemExit: A pattern matches no task.
    """
    from efn_ros.worlds.registry import world_tasks

    known = list(world_tasks(world["world"], world.get("libero_assets", "")))
    found = {pattern: fnmatch.filter(known, pattern) for pattern in patterns or ["*"]}
    unknown = [pattern for pattern, tasks in found.items() if not tasks]
    if unknown:
        raise SystemExit(f"unknown task {', '.join(unknown)}; there are {', '.join(known)}")
    return list(dict.fromkeys(task for tasks in found.values() for task in tasks))


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given, lists as tuples; for options without a default."""
    values = {name: value for name in names if (value := getattr(args, name)) is not None and value is not False}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
