"""Training samples out of a bank: each decision with what the other rollouts recall for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from efn_ros.bank import Snapshot, StoredRollout
from efn_ros.bank.format.steps import before, successors
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import MOTION, Present, Recalled
from efn_ros.retrieval import RecallConfig, Retriever
from efn_ros.types import Mode, Outcome, PolicyStep, Quantised, StepContext

SMALLEST_BOUND = 1e-6  # a dimension that may not be corrected teaches nothing


DECIDED = (Mode.CORRECTED, Mode.BASE, Mode.SHADOW)  # a hold or a stop teaches nothing


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
