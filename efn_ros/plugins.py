# SPDX-License-Identifier: MIT
"""Parts that other distributions add by an entry point; each is imported only when its name is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any


@dataclass(frozen=True)
class PluginGroup:
    """One kind of part: those of this package, and those that other distributions add."""

    group: str  # of the entry points: name of the part -> function that makes it
    kind: str  # what a part is called in messages
    own: tuple[str, ...]  # names of this package's parts, which no plugin can replace
    interface: str  # class that describes a part
    members: Mapping[str, Any]  # what a part must have: name of the attribute -> its type

    def names(self) -> list[str]:
        """Return the names of all parts, those of this package first."""
        installed = {entry.name for entry in entry_points(group=self.group)}
        return [*self.own, *sorted(installed - set(self.own))]

    def make(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Make a part of another distribution.

        Args:
            name: Of its entry point.
            *arguments: Of the function that makes it.
            **options: Of the function that makes it.

        Raises:
            ValueError: The name is unknown, the plugin cannot be imported, or it makes something else.
        """
        found = list(entry_points(group=self.group, name=name))
        if not found:
            *others, last = map(repr, self.names())
            raise ValueError(f"{self.kind} {name!r} is unknown; choose {', '.join(others)} or {last}")
        entry, where = found[0], _origin(found[0])
        try:
            make = entry.load()
        except Exception as error:
            raise ValueError(
                f"{self.kind} {name!r}, {where}, cannot be imported ({type(error).__name__}: {error}); "
                "install what it needs, or choose another"
            ) from error
        part = make(*arguments, **options)
        for member, type_ in self.members.items():
            if not isinstance(getattr(part, member, None), type_):
                raise ValueError(
                    f"{self.kind} {name!r}, {where}, made a {type(part).__name__}, which is no {self.interface}: "
                    f"it has no {member!r} of type {type_.__name__}; correct the plugin, or choose another"
                )
        return part


def _origin(entry: EntryPoint) -> str:
    """Return where a plugin comes from, for messages."""
    return f"{entry.value} of {entry.dist.name if entry.dist else 'an unknown distribution'}"
