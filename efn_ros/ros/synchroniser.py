"""Approximate-time synchronisation of several streams: the newest complete set wins, what it overtakes is dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


class Synchroniser:
    """Keeps a few items a source and gives out one from each whose stamps lie within `slop_ns` of one another."""

    def __init__(self, sources: Sequence[str], slop_ns: int, depth: int = 8) -> None:
        self._queues: dict[str, deque[tuple[int, Any]]] = {source: deque(maxlen=depth) for source in sources}
        self._slop_ns = slop_ns
        self.dropped = 0

    def add(self, source: str, stamp_ns: int, item: Any) -> dict[str, tuple[int, Any]] | None:
        """Add one item; the complete set source -> (stamp, item) that it makes, if any."""
        queue = self._queues[source]
        self.dropped += len(queue) == queue.maxlen
        queue.append((stamp_ns, item))
        if not all(self._queues.values()):
            return None
        chosen = {
            name: min(candidates, key=lambda entry: abs(entry[0] - stamp_ns))
            for name, candidates in self._queues.items()
        }
        stamps = [stamp for stamp, _ in chosen.values()]
        if max(stamps) - min(stamps) > self._slop_ns:
            return None
        for name, candidates in self._queues.items():
            while candidates and candidates[0][0] <= chosen[name][0]:
                self.dropped += candidates.popleft()[0] != chosen[name][0]
        return chosen

    def clear(self) -> None:
        for queue in self._queues.values():
            queue.clear()
