# SPDX-License-Identifier: MIT
"""Learning at work without a teacher: the EFN imitates, in hindsight, the corrections of rollouts that succeeded.

A sample is a decision of a rollout in the bank. Its target is what correction or exploration added to the base action
in a success, and zero where the base policy alone succeeded. The same code recalls for it as on the robot. A candidate
is trained from the checkpoint in use, with a penalty on the distance to it, and validated in shadow on held-out
rollouts. Only an accepted candidate is offered. The files of the frozen policy are neither read nor written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from efn_ros.bank import BankReader, Snapshot, StoredRollout
from efn_ros.correction.checkpoint_registry import RULE, Checkpoint, Registry, now
from efn_ros.efn.actor import Efn
from efn_ros.efn.checkpoint import read_config
from efn_ros.online.acceptance import CORRECTED_SUCCESSES, validate_candidate
from efn_ros.online.config import OPERATOR_SWITCHES, RULE_SWITCHES, RULES, LearnConfig
from efn_ros.online.update import unfinished_job, update
from efn_ros.retrieval import RetrievalConfig
from efn_ros.training.bank_dataset import DECIDED, BankDataset, is_held_out
from efn_ros.types import Mode, Outcome

STATE = "state.safetensors"


class Learner:
    """Trains candidates from one bank. A kill at any time loses at most one epoch.

    Attributes:
        registry: The checkpoints of the bank.
    """

    def __init__(
        self,
        bank: str | Path,
        checkpoint: str | Path,
        config: LearnConfig,
        retrieval: RetrievalConfig,
        *,
        gain: float = 1.0,
        rule: str = OPERATOR_SWITCHES,
        pause: Callable[[], None] = lambda: None,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Learn from a bank.

        Args:
            bank: Its directory.
            checkpoint: The EFN that learning begins with.
            config: How candidates are trained and accepted.
            retrieval: Settings of recall on the robot.
            gain: Of the corrector.
            rule: Who switches to an accepted candidate, one of RULES.
            pause: Called between two pieces of work; may raise to interrupt.
            report: Called with the present work in words.

        Raises:
            ValueError: The rule is unknown, or the gain is not positive.
        """
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; choose one of {', '.join(map(repr, RULES))}")
        if not gain > 0:
            raise ValueError(f"gain of efn_corrector is {gain}; it must be above 0 to learn a correction")
        self.registry = Registry(bank)
        self._bank, self._origin, self._config = bank, checkpoint, config
        self._retrieval = replace(retrieval, codes=None)  # the network in training encodes the sketches itself
        self._gain, self._rule, self._pause, self._report = gain, rule, pause, report
        self._reader: BankReader | None = None

    def advance(self) -> tuple[str, Checkpoint | None]:
        """Train and validate a candidate, if the bank holds enough new rollouts.

        Returns:
            The result in words, and the new candidate, if any.

        Raises:
            BankError: As `BankReader.snapshot` raises it.
            ValueError: Bank and network do not fit each other, or learning began with another checkpoint.
        """
        if self._reader is None:
            read_config(self._origin)  # refuses a checkpoint that cannot be trained before anything is written
            self.registry.begin(self._origin)
            self._reader = BankReader(Path(self._bank).expanduser(), skip_corrupt=True)
        registry, config, snapshot = self.registry, self._config, self._reader.snapshot(verified=True)
        current, newest = registry.current(), registry.checkpoints()[-1]
        if current is None:
            raise ValueError(f"{registry.directory} names no checkpoint in use; begin anew in an empty directory")
        state, revision = registry.directory / STATE, snapshot.revision
        unfinished = unfinished_job(state)
        if unfinished:
            then = unfinished["revision"]
            if unfinished == self._job(self._select(snapshot, then), then, current):
                revision = then  # resume the interrupted training, though the bank may have grown
        rollouts = self._select(snapshot, revision)
        held_out = [r for r in rollouts if is_held_out(r.record.id, config.held_out_fraction)]
        training = [r for r in rollouts if not is_held_out(r.record.id, config.held_out_fraction)]
        if missing := self._missing(rollouts, held_out, training, newest.report.get("revision", 0)):
            return f"nothing to validate yet: {missing}", None

        job, retrieval, projection = self._job(rollouts, revision, current), self._retrieval, snapshot.projection
        before, efn = Efn.from_pretrained(current.path), Efn.from_pretrained(current.path)
        self._report(f"recalling for {len(training)} rollouts")
        samples = BankDataset(training, training, retrieval, efn, projection=projection, pause=self._pause)
        losses = update(
            efn,
            samples,
            config,
            self._gain,
            (config.seed, revision),
            state=state,
            job=job,
            pause=self._pause,
            report=self._report,
        )
        self._report(f"validating on {len(held_out)} held-out rollouts")
        checks = BankDataset(held_out, rollouts, retrieval, efn, projection=projection, pause=self._pause)
        verdict = validate_candidate(before, efn, checks, config, self._gain, self._pause)
        facts = {
            "when": now(),
            "parent": {"number": current.number, "fingerprint": current.fingerprint},
            "policy": rollouts[-1].record.policy,
            "revision": revision,
            "rollouts": {"training": len(training), "held_out": len(held_out)},
            "decisions": {"training": len(samples), "corrected": int((samples.corrected & samples.success).sum())},
            "losses": losses,
            "settings": {"learning": asdict(config), "retrieval": asdict(retrieval), "gain": self._gain},
        }
        candidate = registry.add(efn.save_pretrained, {**verdict, **facts}, keep=config.kept_candidates)
        state.unlink()
        return self._offer(candidate, verdict), candidate

    def _offer(self, candidate: Checkpoint, verdict: dict[str, Any]) -> str:
        """Switch to an accepted candidate if the rule does so; return the result in words."""
        if not verdict["accepted"]:
            return f"candidate {candidate.number} was rejected: {verdict['reason']}"
        if self._rule == RULE_SWITCHES:
            self.registry.switch(candidate.number, who=RULE, why=verdict["reason"])
            return f"candidate {candidate.number} is in use: {verdict['reason']}"
        return f"candidate {candidate.number} is offered: {verdict['reason']}"

    def _missing(
        self,
        rollouts: Sequence[StoredRollout],
        held_out: Sequence[StoredRollout],
        training: Sequence[StoredRollout],
        last_revision: int,
    ) -> str:
        """What the bank holds too little of, in words; empty if it suffices.

        last_revision: of the bank, at the last candidate.
        """
        config = self._config
        new = sum(r.record.revision > last_revision for r in rollouts)
        for found, required, what in (
            (new, config.min_new_rollouts, "rollouts since the last candidate"),
            (sum(map(_is_corrected_success, held_out)), config.min_held_out_successes, CORRECTED_SUCCESSES),
            (sum(map(_is_corrected_success, training)), 1, "corrected successes to learn from"),
        ):
            if found < required:
                return f"{found} of {required} {what}"
        return ""

    def _select(self, snapshot: Snapshot, revision: int) -> list[StoredRollout]:
        """The newest rollouts of the bank at a revision, all of the policy of the last one, oldest first."""
        rollouts = [
            r
            for r in snapshot.rollouts
            if r.record.revision <= revision and r.record.recallable and np.isin(r.arrays.modes, DECIDED).any()
        ]
        return [r for r in rollouts if r.record.policy == rollouts[-1].record.policy][-self._config.max_rollouts :]

    def _job(self, rollouts: Sequence[StoredRollout], revision: int, current: Checkpoint) -> dict[str, Any]:
        """Everything that the result of a training depends on; one that was interrupted is resumed for the same job."""
        ids = hashlib.blake2b("\n".join(r.record.id for r in rollouts).encode(), digest_size=8).hexdigest()
        job = {"parent": current.fingerprint, "revision": revision, "rollouts": ids, "gain": self._gain}
        job |= {"learning": asdict(self._config), "retrieval": asdict(self._retrieval)}
        return json.loads(json.dumps(job))  # tuples become lists, as in the file


def _is_corrected_success(rollout: StoredRollout) -> bool:
    return rollout.record.outcome == Outcome.SUCCESS and bool((rollout.arrays.modes == Mode.CORRECTED).any())
