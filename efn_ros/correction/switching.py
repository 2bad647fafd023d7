# SPDX-License-Identifier: MIT
"""Switching of a corrector to the checkpoint in use, between two episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from efn_ros.correction.checkpoint_registry import ORIGIN, Checkpoint, Registry, fingerprint
from efn_ros.correction.corrector import Corrector, Explore, Residual
from efn_ros.efn.checkpoint import read_config
from efn_ros.types import PolicyStep

Make = Callable[[Path], tuple[Residual, Explore | None]]  # from the directory of a checkpoint


class Switching:
    """Loads the chosen checkpoint in advance, and passes it to the corrector at the beginning of the next episode.

    Attributes:
        running: Number and fingerprint of the checkpoint that the corrector has.
        refused: Why the checkpoint that the registry names was not loaded; empty if it was.
    """

    def __init__(self, corrector: Corrector, registry: Registry, own: str | Path, make: Make) -> None:
        """Begin with the checkpoint of the corrector.

        Args:
            corrector: To switch.
            registry: Of the checkpoints.
            own: Directory of the checkpoint that the corrector has, the origin of learning.
            make: From a checkpoint to residual and exploration.
        """
        self._corrector, self._registry, self._own, self._make = corrector, registry, Path(own), make
        self._origin = self._fingerprint = fingerprint(own)
        self.running, self.refused = f"{ORIGIN} {self._origin}", ""
        self._ready: tuple[Checkpoint, Residual, Explore | None] | None = None
        self._episode_id = ""

    @property
    def facts(self) -> dict[str, str]:
        """Values for diagnostics."""
        return {"checkpoint": self.running, "refused": self.refused}

    def prefetch(self) -> None:
        """Load the checkpoint that the registry names, if the corrector has another one; blocks while it loads."""
        try:
            chosen = self._registry.current()
            self.refused = ""
            if chosen is None or chosen.fingerprint == self._fingerprint:
                self._ready = None
            elif self._ready is None or self._ready[0].fingerprint != chosen.fingerprint:
                self._ready = None
                self._check(chosen)
                self._ready = (chosen, *self._make(chosen.path))
        except Exception as error:  # noqa: BLE001 - after any error the present checkpoint corrects
            self.refused = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)

    def begin(self, step: PolicyStep) -> bool:
        """Switch to the loaded checkpoint if a step begins an episode; call this before each correction.

        Args:
            step: The step to correct next.

        Returns:
            Whether `running` or `refused` changed.
        """
        begins, self._episode_id = step.context.episode_id != self._episode_id, step.context.episode_id
        if self._ready is None or not begins:
            return False
        (chosen, residual, explore), self._ready = self._ready, None
        policy = chosen.report.get("policy", step.policy)
        if policy != step.policy:
            self.refused = (
                f"checkpoint {chosen.number} was trained with policy {policy}, but the policy is {step.policy}"
            )
            return True
        self._corrector.use(residual, explore)
        self._fingerprint, self.running = chosen.fingerprint, f"{chosen.number} {chosen.fingerprint}"
        return True

    def _check(self, chosen: Checkpoint) -> None:
        self._registry.check_origin(self._origin)
        found = fingerprint(chosen.path)
        if found != chosen.fingerprint:
            raise ValueError(f"checkpoint {chosen.number} is {found} on disk, but {chosen.fingerprint} was accepted")
        own, other = (asdict(read_config(path)) for path in (self._own, chosen.path))
        for name, value in other.items():
            if value != own[name]:
                raise ValueError(
                    f"checkpoint {chosen.number} has {name} {value}, but the corrector's own has {own[name]}"
                )
