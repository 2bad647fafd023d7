# SPDX-License-Identifier: MIT
"""Approximate time synchronisation: the newest complete set of items is used, older items are dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


class Synchroniser:
    """Combines one item of each source into a set whose stamps differ by at most `slop_ns`.

    Attributes:
        dropped: Number of items that were, or will be, part of no set.
    """

    def __init__(self, sources: Sequence[str], slop_ns: int, depth: int = 8) -> None:
        """Keep at most `depth` items of each source."""
        self._queues: dict[str, deque[tuple[int, Any]]] = {source: deque(maxlen=depth) for source in sources}
        self._used: dict[str, int] = {}  # source -> stamp of its last item that was part of a set
        self._slop_ns = slop_ns
        self.dropped = 0

    def add(self, source: str, stamp_ns: int, item: Any) -> dict[str, tuple[int, Any]] | None:
        """Add one item.

        An item older than the last used one of its source is dropped. An equal stamp is accepted: a world in lockstep
        publishes an image again.

        Returns:
            The set source -> (stamp, item) that the item completes, if any.
        """
        queue = self._queues[source]
        if stamp_ns < self._used.get(source, stamp_ns):
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
            self._used[name] = chosen[name][0]
            later = [entry for entry in candidates if entry[0] > chosen[name][0]]
            self.dropped += len(candidates) - len(later) - 1
            candidates.clear()
            candidates.extend(later)
        return chosen

    def clear(self) -> None:
        """Remove all items, and accept any stamp."""
        self._used.clear()
        for queue in self._queues.values():
            self.dropped += len(queue)
            queue.clear()
