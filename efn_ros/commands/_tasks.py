"""Tasks of a simulator, chosen by name or pattern."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any


def select_tasks(world: Mapping[str, Any], patterns: Sequence[str] | None) -> list[str]:
    """Return the tasks of a simulated world (parameters of sim_bridge) that patterns name; all without any.

    Raises:
        SystemExit: A pattern, such as libero_goal/*, names none.
    """
    from efn_ros.worlds.registry import world_tasks

    known = list(world_tasks(world["world"], world.get("libero_assets", "")))
    found = {pattern: fnmatch.filter(known, pattern) for pattern in patterns or ["*"]}
    unknown = [pattern for pattern, tasks in found.items() if not tasks]
    if unknown:
        raise SystemExit(f"unknown task {', '.join(unknown)}; there are {', '.join(known)}")
    return list(dict.fromkeys(task for tasks in found.values() for task in tasks))
