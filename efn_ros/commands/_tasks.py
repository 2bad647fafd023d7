"""Which of a simulator's tasks are meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def chosen(bridge: Mapping[str, Any], tasks: Sequence[str] | None) -> list[str]:
    """All that the world of libero_bridge's parameters has, or those that are named; ends the command for others."""
    from efn_ros.worlds import world_tasks

    known = list(world_tasks(bridge["world"], bridge["libero_assets"]))
    unknown = set(tasks or ()) - set(known)
    if unknown:
        raise SystemExit(f"unknown task {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return list(tasks or known)
