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
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from efn_ros import durable
from efn_ros.bank import BankReader, RecallConfig, Retriever, Snapshot, StoredRollout
from efn_ros.bank.payload import before, successors
from efn_ros.efn.network import MOTION, Efn, Present, Recalled, require_action_space
from efn_ros.efn.registry import RULE, Checkpoint, Registry, now
from efn_ros.types import Mode, Outcome, PolicyStep, Quantised, StepContext

STATE = "state.safetensors"
OPERATOR_SWITCHES, RULE_SWITCHES = RULES = ("operator", "when proven")
SMALLEST_BOUND = 1e-6  # a dimension that may not be corrected teaches nothing
BENT_AT = 0.1  # share of the bound, where the loss turns from squares to absolute values
CORRECTED_SUCCESSES = "held-out successes that were corrected"
DECIDED = (Mode.CORRECTED, Mode.BASE, Mode.SHADOW)  # a hold or a stop teaches nothing


@dataclass(frozen=True)
class LearnConfig:
    """How a candidate is made and what it must prove.

    held_out: share of rollouts that only prove. least_new: rollouts since the last candidate before there is another.
    most_rollouts: the newest that are used. learning_rate, epochs, batch: of AdamW; few and small, it starts from what
    is in use. nearness: weight of the squared change of the residual, in shares of its bound, over all decisions.
    anchor: weight of a decision that the base alone made in a success, against 1 for one that was corrected. margin:
    share by which the error must fall; least_held_out: held-out successes that were corrected and must show it.
    most_change: largest change of a residual in any held-out decision, as a share of its bound. kept: candidates of
    each kind that are kept though never used. Raises ValueError, naming the parameter, for a value out of range.
    """

    seed: int = 0
    held_out: float = 0.25
    least_new: int = 10
    most_rollouts: int = 200
    epochs: int = 4
    batch: int = 64
    learning_rate: float = 1e-4
    nearness: float = 0.1
    anchor: float = 0.25
    margin: float = 0.05
    least_held_out: int = 5
    most_change: float = 0.5
    kept: int = 5

    def __post_init__(self) -> None:
        for name, valid, remedy in (
            ("held_out", 0 < self.held_out < 1, "between 0 and 1"),
            ("least_new", self.least_new >= 1, "at least 1"),
            ("most_rollouts", self.most_rollouts >= 2, "at least 2"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch", self.batch >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < np.inf, "above 0"),
            ("nearness", 0 <= self.nearness < np.inf, "at least 0"),
            ("anchor", 0 < self.anchor <= 1, "above 0 and at most 1"),
            ("margin", 0 < self.margin < 1, "between 0 and 1"),
            ("least_held_out", self.least_held_out >= 1, "at least 1"),
            ("most_change", 0 < self.most_change <= 2, "above 0 and at most 2"),
            ("kept", self.kept >= 1, "at least 1"),
        ):
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {remedy}")


class Stopped(Exception):
    """The learner was asked to end."""


class Throttle:
    """Called between two pieces of work: leaves the machine to an episode, and raises `Stopped` after `end`.

    share: of one core, while `busy` is set; 0 waits until it is not.
    """

    LOOK_S = 0.1

    def __init__(self, share: float = 1.0) -> None:
        self.busy = False
        self._share, self._end, self._began = share, threading.Event(), time.monotonic()

    def end(self) -> None:
        self._end.set()

    def wait(self, seconds: float) -> None:
        ended = self._end.wait(seconds)
        self._began = time.monotonic()
        if ended:
            raise Stopped

    def __call__(self) -> None:
        worked = time.monotonic() - self._began
        while self.busy and not self._share:
            self.wait(self.LOOK_S)
        self.wait(worked * (1 / self._share - 1) if self.busy else 0.0)


def is_held_out(rollout_id: str, share: float) -> bool:
    """By a hash of the identifier: whatever else the bank holds, a rollout stays on its side."""
    digest = hashlib.blake2b(rollout_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


@dataclass(frozen=True)
class _Held:
    """A bank that holds just this."""

    held: Snapshot

    def snapshot(self) -> Snapshot:
        return self.held


class Lessons:
    """Decisions of `taught` rollouts, N in all, each with what the others of `memory` recall for it.

    memory contains `taught`. share: given, each rollout recalls from a share of the others that it draws, evenly on the
    scale of logarithms, and at least one; else from all. target: float32 (N, H, A), what was added to the base action;
    of a success. success, corrected: bool (N,). rollout: (N,) index into `taught`. Raises ValueError for sizes that are
    not the network's.
    """

    def __init__(
        self,
        taught: Sequence[StoredRollout],
        memory: Sequence[StoredRollout],
        recall: RecallConfig,
        efn: Efn,
        projection: str = "",
        pause: Callable[[], None] = lambda: None,
        share: np.random.Generator | None = None,
    ) -> None:
        self._rollouts, self._flat, self._sketches = memory, _flatten(memory), {}
        _check_fit(memory[0], efn)
        first = dict(zip((r.record.id for r in memory), _offsets(memory), strict=True))
        rows = {r.record.id: {step: row for row, step in enumerate(r.arrays.steps.tolist())} for r in memory}
        self._flat["code"] = np.concatenate([_code(rollout, efn) for rollout in memory])
        recall = replace(recall, codes=None)  # every rollout is encoded above
        count = recall.k + recall.context
        flat, of, recalled, similarity, there = [], [], [], [], []
        for index, rollout in enumerate(taught):
            pause()
            others = tuple(r for r in memory if r.record.id != rollout.record.id)
            if share and others:
                chosen = share.permutation(len(others))[: int(len(others) ** share.random())]
                others = tuple(others[i] for i in np.sort(chosen))
            retriever = Retriever(_Held(Snapshot.of(others, 1, projection)), recall)
            for row in np.flatnonzero(np.isin(rollout.arrays.modes, DECIDED)):
                steps = retriever.recall(_query(rollout, row, projection)).steps
                found = [first[s.rollout_id] + rows[s.rollout_id][s.step] for s in steps]
                empty = count - len(found)
                flat.append(first[rollout.record.id] + row)
                of.append(index)
                recalled.append(found + [0] * empty)
                similarity.append([*steps.similarity, *[0.0] * empty])
                there.append([True] * len(found) + [False] * empty)
        self.rollout, self.row = np.array(of, int), np.array(flat, int)
        self._recalled = np.array(recalled, int).reshape(-1, count)
        self._similarity = np.array(similarity, np.float32).reshape(-1, count)
        self._there = np.array(there, bool).reshape(-1, count)
        self.success = self._flat["success"][self.row] > 0
        self.corrected = self._flat["corrected"][self.row] > 0
        added = self._flat["executed"][self.row] - self._flat["base"][self.row]
        self.target = added * self.corrected[:, None, None]  # a limit's smoothing of the base is no correction

    def __len__(self) -> int:
        return len(self.row)

    def weight(self, anchor: float) -> np.ndarray:
        """float32 (N,): 1 where a success was corrected, `anchor` where the base alone succeeded, 0 in failures."""
        return np.where(self.success, np.where(self.corrected, 1.0, anchor), 0.0).astype(np.float32)

    def batch(self, rows: np.ndarray) -> tuple[Present, Recalled]:
        """Of the decisions in `rows`, (B,): what the network read, or would have read, at work."""
        flat, here, chosen = self._flat, self.row[rows], self._recalled[rows]
        sketches = [self._sketch(i) for i in here]
        names = (*MOTION, "base", "code", "success")
        memory = {name: torch.from_numpy(flat[name][chosen]) for name in names}
        memory["latent"] = torch.from_numpy(flat["latent"][chosen].mean(axis=2))
        now = {name: torch.from_numpy(flat[name][here]) for name in ("latent", "proprio", "base")}
        return (
            Present(sketch=torch.from_numpy(np.stack(sketches)), **now),
            Recalled(
                similarity=torch.from_numpy(self._similarity[rows]), there=torch.from_numpy(self._there[rows]), **memory
            ),
        )

    def recalled_rollouts(self, lesson: int) -> set[str]:
        """Identifiers of the rollouts that a lesson's memory is from."""
        owner = self._flat["owner"][self._recalled[lesson][self._there[lesson]]]
        return {self._rollouts[i].record.id for i in owner}

    @torch.inference_mode()
    def residuals(self, efn: Efn, gain: float, batch: int, pause: Callable[[], None] = lambda: None) -> np.ndarray:
        """What the network adds in every decision, float32 (N, H, A), before the limits of the robot."""
        parts = []
        for rows in np.split(np.arange(len(self)), range(batch, len(self), batch)):
            pause()
            parts.append(gain * efn.eval().residual(*self.batch(rows)).numpy())
        return np.concatenate(parts)

    def _sketch(self, flat: int) -> np.ndarray:
        owner = int(self._flat["owner"][flat])
        if owner not in self._sketches:  # a file for each would be opened for every decision of every batch
            rollout = self._rollouts[owner]
            self._sketches[owner] = rollout.sketches(*range(len(rollout.arrays.steps)))
        return self._sketches[owner][self._flat["index"][flat]].dequantise()


@torch.inference_mode()
def _code(rollout: StoredRollout, efn: Efn) -> np.ndarray:
    """What the network keeps of what each decision saw, float32 (N, codes)."""
    if not efn.config.codes:
        return np.zeros((len(rollout.arrays.steps), 0), np.float32)
    sketches = rollout.sketches(*range(len(rollout.arrays.steps)))
    return efn.code(torch.from_numpy(np.stack([sketch.dequantise() for sketch in sketches]))).numpy()


def _offsets(rollouts: Sequence[StoredRollout]) -> list[int]:
    return np.cumsum([0, *(len(r.arrays.steps) for r in rollouts)])[:-1].tolist()


def _flatten(rollouts: Sequence[StoredRollout]) -> dict[str, np.ndarray]:
    """All decisions of all rollouts, one below the other; owner and index say which each is."""
    columns: dict[str, list[np.ndarray]] = {}
    for owner, rollout in enumerate(rollouts):
        arrays, count = rollout.arrays, len(rollout.arrays.steps)
        executed_before, proprio_before = before(arrays)
        for name, values in (
            ("executed", arrays.executed),
            ("base", arrays.base),
            ("proprio", arrays.proprio),
            ("proprio_next", arrays.proprio[successors(arrays.steps)]),
            ("executed_before", executed_before),
            ("proprio_before", proprio_before),
            ("latent", arrays.latent),
            ("success", np.full(count, rollout.record.outcome == Outcome.SUCCESS, np.float32)),
            ("corrected", arrays.modes == Mode.CORRECTED),
            ("owner", np.full(count, owner)),
            ("index", np.arange(count)),
        ):
            columns.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _is_corrected_success(rollout: StoredRollout) -> bool:
    return rollout.record.outcome == Outcome.SUCCESS and bool((rollout.arrays.modes == Mode.CORRECTED).any())


def _query(rollout: StoredRollout, row: int, projection: str) -> PolicyStep:
    """The decision as it asked, or would have asked, at work; the same draw for the same seed and step."""
    record, arrays = rollout.record, rollout.arrays
    key = Quantised(arrays.key.q[row], arrays.key.scale[row])
    stamp, step = int(arrays.stamps_ns[row]), int(arrays.steps[row])
    context = StepContext(record.id, step, stamp, record.task, record.instruction, record.seed)
    return PolicyStep(
        context=context,
        base=arrays.base[row],
        key=key,
        sketch=key,
        latent=arrays.latent[row],
        instruction_embedding=rollout.instruction_embedding,
        proprio=arrays.proprio[row],
        policy=record.policy,
        projection=projection,
    )


def _check_fit(rollout: StoredRollout, efn: Efn) -> None:
    arrays, c = rollout.arrays, efn.config
    for name, found, expected in (
        ("base action", arrays.base.shape[1:], (c.horizon, c.action_size)),
        ("latent", arrays.latent.shape[1:], c.latent),
        ("sketch", rollout.sketches(0)[0].q.shape, c.sketch),
        ("proprioception", arrays.proprio.shape[1:], (len(c.proprio_mean),)),
    ):
        if tuple(found) != tuple(expected):
            raise ValueError(
                f"{name} in the bank has shape {tuple(found)}; the EFN takes {tuple(expected)}: name a checkpoint that "
                "was trained for this policy"
            )


def fit(
    efn: Efn,
    lessons: Lessons,
    config: LearnConfig,
    gain: float,
    seed: Sequence[int],
    *,
    state: Path,
    job: str,
    pause: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[float]:
    """Train `efn` in place; returns the loss of each epoch.

    state: after every epoch all of the training goes there; where it holds an unfinished `job`, that is gone on with,
    and the end is the same to the last bit. Only safetensors is written, the rest is in its header.
    """
    bound = (efn.bound * gain).clamp(min=SMALLEST_BOUND)
    weight = lessons.weight(config.anchor)
    weight /= weight.mean() or 1.0
    before = lessons.residuals(efn, gain, config.batch, pause)
    optimiser = torch.optim.AdamW(efn.parameters(), config.learning_rate)
    losses = _load_state(state, job, efn, optimiser)
    for epoch in range(len(losses), config.epochs):
        torch.manual_seed(int(np.random.SeedSequence([*seed, epoch]).generate_state(1)[0]))  # of dropout
        order = np.random.default_rng([*seed, epoch]).permutation(len(lessons))
        total = 0.0
        for rows in np.split(order, range(config.batch, len(order), config.batch)):
            pause()
            residual = gain * efn.train().residual(*lessons.batch(rows))
            wanted = torch.from_numpy(lessons.target[rows]).clamp(-bound, bound)  # the network reaches no farther
            missed = F.smooth_l1_loss(residual / bound, wanted / bound, beta=BENT_AT, reduction="none").mean((1, 2))
            changed = ((residual - torch.from_numpy(before[rows])) / bound).square().mean()
            loss = (torch.from_numpy(weight[rows]) * missed).mean() + config.nearness * changed
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(efn.parameters(), 1.0)
            optimiser.step()
            total += loss.item() * len(rows)
        losses.append(total / len(lessons))
        _save_state(state, job, efn, optimiser, losses)
        tell(f"learning: epoch {epoch + 1} of {config.epochs}, loss {losses[-1]:.4f}")
    efn.eval()
    return losses


def _save_state(path: Path, job: str, efn: Efn, optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in efn.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
    durable.write(path, save(tensors, {"job": job, "losses": json.dumps(losses)}))


def _load_state(path: Path, job: str, efn: Efn, optimiser: torch.optim.Optimizer) -> list[float]:
    """Losses of the epochs that are done; none where the state is of another job."""
    if _job_of(path) != job:
        return []
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        losses = json.loads(file.metadata()["losses"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    efn.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return losses


def _job_of(state: Path) -> str:
    """What an unfinished training is about; empty where there is none. Raises ValueError for a damaged file."""
    if not state.exists():
        return ""
    try:
        with safetensors.safe_open(state, framework="pt") as file:
            return file.metadata()["job"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{state} cannot be read ({error!r}); remove it, and the training begins anew") from error


def prove(
    current: Efn,
    candidate: Efn,
    lessons: Lessons,
    config: LearnConfig,
    gain: float,
    pause: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """What both networks make of held-out decisions, in shadow, and whether the candidate is better; ready for JSON.

    It rests on successes that were corrected: where the base alone succeeded silence is always right, and to prove a
    network by that would teach it to be silent everywhere.

    proven, reason: the verdict, in words. successes: rollouts that it rests on. error: of the residual in corrected
    decisions against what was added, mean absolute share of the bound, the mean of the successes' means; error_all:
    with the decisions of the base alone, weighted as in training. change: |candidate - current| over all decisions,
    failures too: mean and largest by dimension, in the action's units; bound: the largest residual.
    """
    bound = (candidate.bound * gain).clamp(min=SMALLEST_BOUND).numpy()
    said = [lessons.residuals(efn, gain, config.batch, pause) for efn in (current, candidate)]
    size = np.abs(said[1] - said[0]).astype(np.float64)
    missed = [np.abs(one - np.clip(lessons.target, -bound, bound)) / bound for one in said]
    every = lessons.weight(config.anchor)
    corrected = every * lessons.corrected
    error, error_all = (
        [_over_rollouts(one.mean(axis=(1, 2)), weight, lessons.rollout) for one in missed]
        for weight in (corrected, every)
    )
    successes = len(set(lessons.rollout[corrected > 0].tolist()))
    share = float((size.max(axis=(0, 1)) / bound).max())
    most = error[0] * (1 - config.margin)
    failed = [
        why
        for fails, why in (
            (not np.isfinite(size).all(), "it says what is not finite"),
            (successes < config.least_held_out, f"{successes} of {config.least_held_out} {CORRECTED_SUCCESSES}"),
            (not error[1] <= most < error[0], f"error {error[0]:.4f} -> {error[1]:.4f}, asked for is {most:.4f}"),
            (
                error_all[1] > error_all[0],
                f"worse where the base alone succeeded: error of all {error_all[0]:.4f} -> {error_all[1]:.4f}",
            ),
            (
                not share <= config.most_change,
                f"a decision changes by {share:.2f} of the largest residual, allowed is {config.most_change:g}",
            ),
        )
        if fails
    ]
    reason = failed[0] if failed else f"error {error[0]:.4f} -> {error[1]:.4f} in {successes} {CORRECTED_SUCCESSES}"
    return {
        "proven": not failed,
        "reason": reason,
        "successes": successes,
        "error": {"current": error[0], "candidate": error[1]},
        "error_all": {"current": error_all[0], "candidate": error_all[1]},
        "change": {
            "decisions": len(lessons),
            "mean": size.mean(axis=(0, 1)).tolist(),
            "largest": size.max(axis=(0, 1)).tolist(),
            "bound": bound.tolist(),
        },
    }


def _over_rollouts(values: np.ndarray, weight: np.ndarray, rollout: np.ndarray) -> float:
    """Weighted mean of each rollout, and the mean of those; 0 where nothing has weight."""
    total = np.bincount(rollout, weight)
    counted = total > 0
    return float((np.bincount(rollout, weight * values)[counted] / total[counted]).mean()) if counted.any() else 0.0


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
