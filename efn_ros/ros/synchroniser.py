"""Approximate-time synchronisation of several streams: the newest complete set wins, what it overtakes is dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


class Synchroniser:
    """Keeps a few items a source and gives out one from each whose stamps lie within `slop_ns` of one another.

    dropped: items that were, or will be, part of no set.
    """

    def __init__(self, sources: Sequence[str], slop_ns: int, depth: int = 8) -> None:
        self._queues: dict[str, deque[tuple[int, Any]]] = {source: deque(maxlen=depth) for source in sources}
        self._given: dict[str, int] = {}  # source -> stamp of what it gave last
        self._slop_ns = slop_ns
        self.dropped = 0

    def add(self, source: str, stamp_ns: int, item: Any) -> dict[str, tuple[int, Any]] | None:
        """Add one item; the complete set source -> (stamp, item) that it makes, if any.

        What is older than what its source gave last comes too late. The same stamp may come again: a world in
        lockstep that asks once more.
        """
        queue = self._queues[source]
        if stamp_ns < self._given.get(source, stamp_ns):
            self.dropped += 1
            return None
        self.dropped += len(queue) == queue.maxlen
        queue.append((stamp_ns, item))
        if not all(self._queues.values()):
            return None
        chosen = {
            name: min(reversed(candidates), key=lambda entry: abs(entry[0] - stamp_ns))
            for name, candidates in self._queues.items()
        }
        stamps = [stamp for stamp, _ in chosen.values()]
        if max(stamps) - min(stamps) > self._slop_ns:
            return None
        for name, candidates in self._queues.items():
            self._given[name] = chosen[name][0]
            later = [entry for entry in candidates if entry[0] > chosen[name][0]]
            self.dropped += len(candidates) - len(later) - 1
            candidates.clear()
            candidates.extend(later)
        return chosen

    def clear(self) -> None:
        """Forget everything, also how far the stamps had come."""
        self._given.clear()
        for queue in self._queues.values():
            self.dropped += len(queue)
            queue.clear()
