"""Learning at work, without a teacher: the EFN imitates, in hindsight, what was added where it ended well.

A lesson is a decision of a remembered rollout. Its target is what correction or exploration added to the base action
in a rollout that succeeded, and zero where the base alone did; what the *other* rollouts recall for it is found by the
very code that recalls at work. From the checkpoint in use a candidate is trained, held near it, and proven on rollouts
that it never saw, in shadow: both networks answer the held-out decisions, and nothing is executed. Only then it is
offered. The frozen policy has no part in this: its files are neither read nor written. After self-imitation learning
(Oh et al., 2018), with whole successes in place of returns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from efn_ros.bank import BankReader, Snapshot, StoredRollout
from efn_ros.correction.registry import RULE, Checkpoint, Registry, now
from efn_ros.efn.actor import Efn
from efn_ros.efn.checkpoint import require_action_space
from efn_ros.online.acceptance import CORRECTED_SUCCESSES, prove
from efn_ros.online.config import OPERATOR_SWITCHES, RULE_SWITCHES, RULES, LearnConfig
from efn_ros.online.update import _job_of, fit
from efn_ros.retrieval import RecallConfig
from efn_ros.training.bank_dataset import DECIDED, Lessons, is_held_out
from efn_ros.types import Mode, Outcome

STATE = "state.safetensors"


def _is_corrected_success(rollout: StoredRollout) -> bool:
    return rollout.record.outcome == Outcome.SUCCESS and bool((rollout.arrays.modes == Mode.CORRECTED).any())


class Learner:
    """Follows one bank. `advance` does what there is to do; a kill at any time costs at most an epoch."""

    def __init__(
        self,
        bank: str | Path,
        checkpoint: str | Path,
        config: LearnConfig,
        recall: RecallConfig,
        *,
        gain: float = 1.0,
        rule: str = OPERATOR_SWITCHES,
        pause: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """checkpoint: the EFN that learning begins with. recall, gain: as the robot is corrected with. rule: who
        switches, one of RULES. pause: called between two pieces of work. tell: hears what is being done."""
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; there are {', '.join(map(repr, RULES))}")
        if not gain > 0:
            raise ValueError(f"gain of efn_corrector is {gain}; with no correction there is nothing to learn")
        self.registry = Registry(bank)
        self._bank, self._origin, self._config, self._recall = bank, checkpoint, config, recall
        self._gain, self._rule, self._pause, self._tell = gain, rule, pause, tell
        self._reader: BankReader | None = None

    def advance(self) -> tuple[str, Checkpoint | None]:
        """What came of it, in words, and the candidate where there is a new one.

        Raises the errors of `Registry.begin`, of `BankReader.snapshot`, and ValueError where bank and network do not
        fit each other and for a checkpoint that changes latent tokens.
        """
        if self._reader is None:
            require_action_space(self._origin, "learning at work")
            self.registry.begin(self._origin)
            self._reader = BankReader(Path(self._bank).expanduser(), skip_corrupt=True)
        registry, config, snapshot = self.registry, self._config, self._reader.snapshot(verified=True)
        current, newest = registry.current(), registry.checkpoints()[-1]
        state = registry.directory / STATE
        begun = json.loads(_job_of(state) or "{}")
        revision = snapshot.revision
        if begun and begun == self._job(self._chosen(snapshot, begun["revision"]), begun["revision"], current):
            revision = begun["revision"]  # go on with what was interrupted
        rollouts = self._chosen(snapshot, revision)
        since = newest.report.get("revision", 0)
        fresh = sum(r.record.revision > since for r in rollouts)
        held_out = [r for r in rollouts if is_held_out(r.record.id, config.held_out)]
        learnt = [r for r in rollouts if not is_held_out(r.record.id, config.held_out)]
        proving, teaching = (sum(map(_is_corrected_success, part)) for part in (held_out, learnt))
        for there, asked, what in (
            (fresh, config.least_new, "rollouts since the last candidate"),
            (proving, config.least_held_out, CORRECTED_SUCCESSES),
            (teaching, 1, "corrected successes to learn from"),
        ):
            if there < asked:
                return f"nothing to prove yet: {there} of {asked} {what}", None

        projection, recall = snapshot.projection, self._recall
        job = self._job(rollouts, revision, current)
        before, efn = Efn.from_pretrained(current.path), Efn.from_pretrained(current.path)
        self._tell(f"recalling for {len(learnt)} rollouts")
        lessons = Lessons(learnt, learnt, recall, efn, projection, self._pause)
        seed = (config.seed, revision)
        told = json.dumps(job, sort_keys=True)
        losses = fit(efn, lessons, config, self._gain, seed, state=state, job=told, pause=self._pause, tell=self._tell)
        self._tell(f"proving on {len(held_out)} held-out rollouts")
        checks = Lessons(held_out, rollouts, recall, efn, projection, self._pause)
        proof = prove(before, efn, checks, config, self._gain, self._pause)
        facts = {
            "when": now(),
            "parent": {"number": current.number, "fingerprint": current.fingerprint},
            "policy": rollouts[-1].record.policy,
            "revision": revision,
            "rollouts": {"learnt": len(learnt), "held_out": len(held_out)},
            "decisions": {"learnt": len(lessons), "corrected": int((lessons.corrected & lessons.success).sum())},
            "losses": losses,
            "settings": {"learning": asdict(config), "recall": asdict(recall), "gain": self._gain},
        }
        candidate = registry.add(efn.save_pretrained, {**proof, **facts}, kept=config.kept)
        state.unlink()
        if not proof["proven"]:
            return f"candidate {candidate.number} was rejected: {proof['reason']}", candidate
        if self._rule == RULE_SWITCHES:
            registry.switch(candidate.number, who=RULE, why=proof["reason"])
            return f"candidate {candidate.number} is in use: {proof['reason']}", candidate
        return f"candidate {candidate.number} is offered: {proof['reason']}", candidate

    def _chosen(self, snapshot: Snapshot, revision: int) -> list[StoredRollout]:
        """The newest that the bank held at this revision, of the policy that works now, oldest first."""
        rollouts = [
            r
            for r in snapshot.rollouts
            if r.record.revision <= revision and r.record.recallable and np.isin(r.arrays.modes, DECIDED).any()
        ]
        return [r for r in rollouts if r.record.policy == rollouts[-1].record.policy][-self._config.most_rollouts :]

    def _job(self, rollouts: Sequence[StoredRollout], revision: int, current: Checkpoint) -> dict:
        """All that a training depends on: with the same, one that was interrupted may go on."""
        ids = hashlib.blake2b("\n".join(r.record.id for r in rollouts).encode(), digest_size=8).hexdigest()
        job = {"parent": current.fingerprint, "revision": revision, "rollouts": ids, "gain": self._gain}
        job |= {"learning": asdict(self._config), "recall": asdict(self._recall)}
        return json.loads(json.dumps(job))  # tuples become lists, as in what was written
