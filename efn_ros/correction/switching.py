"""The corrector's side of the registry: which checkpoint an episode runs with; never another one within it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from efn_ros.correction.corrector import Corrector, Explore, Residual
from efn_ros.correction.registry import ORIGIN, Checkpoint, Registry, fingerprint
from efn_ros.efn.checkpoint import read_config
from efn_ros.types import PolicyStep

Make = Callable[[Path], tuple[Residual, Explore | None]]


class Switching:
    """Loads between episodes what the registry says is in use, and hands it to the corrector with the next one.

    running: number and fingerprint of what corrects. refused: in words, which one was named and why it does not
    correct; empty where none is.
    """

    def __init__(self, corrector: Corrector, registry: Registry, own: str | Path, make: Make) -> None:
        """own: the checkpoint that the corrector has. make: from a checkpoint to what the corrector takes."""
        self._corrector, self._registry, self._own, self._make = corrector, registry, Path(own), make
        self._origin = self._fingerprint = fingerprint(own)
        self.running, self.refused = f"{ORIGIN} {self._origin}", ""
        self._ready: tuple[Checkpoint, Residual, Explore | None] | None = None
        self._episode_id = ""

    @property
    def facts(self) -> dict[str, str]:
        """For diagnostics."""
        return {"checkpoint": self.running, "refused": self.refused}

    def prefetch(self) -> None:
        """Load what is in use by now, if that is not what corrects; takes as long as loading does."""
        try:
            named = self._registry.current()
            self.refused = ""
            if named is None or named.fingerprint == self._fingerprint:
                self._ready = None
            elif self._ready is None or self._ready[0].fingerprint != named.fingerprint:
                self._ready = None
                self._check(named)
                self._ready = (named, *self._make(named.path))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with what was named, the present one corrects
            self.refused = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)

    def begin(self, step: PolicyStep) -> bool:
        """Before a step is corrected: with the first of another episode, take what is ready. Whether something was."""
        if step.context.episode_id == self._episode_id:
            return False
        self._episode_id = step.context.episode_id
        if self._ready is None:
            return False
        (named, residual, explore), self._ready = self._ready, None
        policy = named.report.get("policy", step.policy)
        if policy != step.policy:
            self.refused = f"checkpoint {named.number} was trained with policy {policy}, but {step.policy} is at work"
            return True
        self._corrector.use(residual, explore)
        self._fingerprint, self.running = named.fingerprint, f"{named.number} {named.fingerprint}"
        return True

    def _check(self, named: Checkpoint) -> None:
        self._registry.check_origin(self._origin)
        found = fingerprint(named.path)
        if found != named.fingerprint:
            raise ValueError(f"checkpoint {named.number} is {found} on disk, but {named.fingerprint} was accepted")
        own, its = (read_config(path) for path in (self._own, named.path))
        for name, value in asdict(its).items():
            if value != getattr(own, name):
                raise ValueError(
                    f"checkpoint {named.number} has {name} {value}, but the corrector's own has {getattr(own, name)}"
                )
