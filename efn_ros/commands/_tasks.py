"""Which of a simulator's tasks are meant."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any


def chosen(bridge: Mapping[str, Any], tasks: Sequence[str] | None) -> list[str]:
    """All that the world of libero_bridge's parameters has, or those that are named, also by a pattern such as
    libero_goal/*, in the order of the words; ends the command for others."""
    from efn_ros.worlds.registry import world_tasks

    known = list(world_tasks(bridge["world"], bridge["libero_assets"]))
    meant = {word: fnmatch.filter(known, word) for word in tasks or ["*"]}
    unknown = [word for word, found in meant.items() if not found]
    if unknown:
        raise SystemExit(f"unknown task {', '.join(unknown)}; there are {', '.join(known)}")
    return list(dict.fromkeys(task for found in meant.values() for task in found))
