"""Learning at work, without a teacher: the EFN imitates, in hindsight, what was added where it ended well.

A sample is a decision of a remembered rollout. Its target is what correction or exploration added to the base action in
a rollout that succeeded, and zero where the base alone did; what the other rollouts recall for it is found by the very
code that recalls at work. From the checkpoint in use a candidate is trained, held near it, and validated in shadow on
rollouts that it never saw. Only an accepted candidate is offered. The files of the frozen policy are neither read nor
written.
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
from efn_ros.correction.registry import RULE, Checkpoint, Registry, now
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
    """Follows one bank. `advance` does what there is to do; a kill at any time costs at most an epoch.

    Attributes:
        registry: Of the checkpoints.
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
            config: How candidates are made and accepted.
            retrieval: As the robot recalls at work.
            gain: Of the corrector.
            rule: Who switches to an accepted candidate, one of RULES.
            pause: Called between two pieces of work; may raise to interrupt.
            report: Is given what is being done, in words.

        Raises:
            ValueError: There is no such rule, or no correction to learn.
        """
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; there are {', '.join(map(repr, RULES))}")
        if not gain > 0:
            raise ValueError(f"gain of efn_corrector is {gain}; with no correction there is nothing to learn")
        self.registry = Registry(bank)
        self._bank, self._origin, self._config = bank, checkpoint, config
        self._retrieval = replace(retrieval, codes=None)  # the network in training encodes what was seen itself
        self._gain, self._rule, self._pause, self._report = gain, rule, pause, report
        self._reader: BankReader | None = None

    def advance(self) -> tuple[str, Checkpoint | None]:
        """Make and validate a candidate, if there is enough to learn from.

        Returns:
            What came of it, in words, and the candidate where there is a new one.

        Raises:
            BankError: As `BankReader.snapshot` raises it.
            ValueError: Bank and network do not fit each other, or learning began with another checkpoint.
        """
        if self._reader is None:
            read_config(self._origin)  # refuses what cannot be trained, before anything is written
            self.registry.begin(self._origin)
            self._reader = BankReader(Path(self._bank).expanduser(), skip_corrupt=True)
        registry, config, snapshot = self.registry, self._config, self._reader.snapshot(verified=True)
        current, newest = registry.current(), registry.checkpoints()[-1]
        if current is None:
            raise ValueError(f"{registry.directory} names no checkpoint in use; begin anew in an empty directory")
        state, revision = registry.directory / STATE, snapshot.revision
        begun = unfinished_job(state)
        if begun and begun == self._job(self._chosen(snapshot, begun["revision"]), begun["revision"], current):
            revision = begun["revision"]  # go on with what was interrupted
        rollouts = self._chosen(snapshot, revision)
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
        candidate = registry.add(efn.save_pretrained, {**verdict, **facts}, kept=config.kept_candidates)
        state.unlink()
        return self._offer(candidate, verdict), candidate

    def _offer(self, candidate: Checkpoint, verdict: dict[str, Any]) -> str:
        """Switch to an accepted candidate where the rule does. Returns what came of it."""
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
        since: int,
    ) -> str:
        """What there is too little of, in words; empty where there is enough. since: revision of the last candidate."""
        config = self._config
        new = sum(r.record.revision > since for r in rollouts)
        validating, teaching = (sum(map(_is_corrected_success, part)) for part in (held_out, training))
        for found, asked, what in (
            (new, config.min_new_rollouts, "rollouts since the last candidate"),
            (validating, config.min_held_out_successes, CORRECTED_SUCCESSES),
            (teaching, 1, "corrected successes to learn from"),
        ):
            if found < asked:
                return f"{found} of {asked} {what}"
        return ""

    def _chosen(self, snapshot: Snapshot, revision: int) -> list[StoredRollout]:
        """The newest that the bank held at this revision, of the policy that works now, oldest first."""
        rollouts = [
            r
            for r in snapshot.rollouts
            if r.record.revision <= revision and r.record.recallable and np.isin(r.arrays.modes, DECIDED).any()
        ]
        return [r for r in rollouts if r.record.policy == rollouts[-1].record.policy][-self._config.max_rollouts :]

    def _job(self, rollouts: Sequence[StoredRollout], revision: int, current: Checkpoint) -> dict[str, Any]:
        """All that a training depends on: with the same, one that was interrupted may go on."""
        ids = hashlib.blake2b("\n".join(r.record.id for r in rollouts).encode(), digest_size=8).hexdigest()
        job = {"parent": current.fingerprint, "revision": revision, "rollouts": ids, "gain": self._gain}
        job |= {"learning": asdict(self._config), "retrieval": asdict(self._retrieval)}
        return json.loads(json.dumps(job))  # tuples become lists, as in what was written


def _is_corrected_success(rollout: StoredRollout) -> bool:
    return rollout.record.outcome == Outcome.SUCCESS and bool((rollout.arrays.modes == Mode.CORRECTED).any())
