"""Training samples out of a bank: each decision with what the other rollouts recall for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from efn_ros.bank import StoredRollout
from efn_ros.bank.format.steps import before, successors
from efn_ros.bank.store.snapshot import FixedSnapshot, Snapshot
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import MOTION, Present, Recalled
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.types import Mode, Outcome, Quantised, RetrievalQuery, StepContext

MIN_BOUND = 1e-6  # a dimension that may not be corrected trains nothing
DECIDED = (Mode.CORRECTED, Mode.BASE, Mode.SHADOW)  # a hold or a stop trains nothing


def is_held_out(rollout_id: str, fraction: float) -> bool:
    """Return whether a rollout is held out; by a hash of its identifier, so that it stays on its side."""
    digest = hashlib.blake2b(rollout_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


class BankDataset:
    """Decisions of some rollouts, N in all, each with what the others recall for it.

    Attributes:
        rollout: int (N,), index of each decision's rollout among the samples' rollouts.
        success: bool (N,), of the rollout.
        corrected: bool (N,), of the decision.
        target: float32 (N, H, A), what was added to the base action.
    """

    def __init__(
        self,
        sampled: Sequence[StoredRollout],
        memory: Sequence[StoredRollout],
        retrieval: RetrievalConfig,
        efn: Efn,
        *,
        projection: str = "",
        pause: Callable[[], None] = lambda: None,
        subsets: np.random.Generator | None = None,
    ) -> None:
        """Recall for every decision.

        Args:
            sampled: Rollouts that samples are taken of; a rollout may stand there more than once.
            memory: Rollouts that are recalled, those of `sampled` among them.
            retrieval: As the robot recalls at work.
            efn: The network that the samples are for.
            projection: Identity of the one behind the rollouts' keys.
            pause: Called before every rollout; may raise to interrupt.
            subsets: Where given, each rollout recalls from a subset of the others that it draws, of a size that is
                uniform on the scale of logarithms; else from all.

        Raises:
            ValueError: The rollouts are of other sizes than the network.
        """
        self._memory, self._columns = memory, _columns(memory)
        self._sketches: dict[int, list[Quantised]] = {}
        _check_fit(memory[0], efn)
        first = dict(zip((r.record.id for r in memory), _offsets(memory), strict=True))
        rows = {r.record.id: {step: row for row, step in enumerate(r.arrays.steps.tolist())} for r in memory}
        self._columns["code"] = np.concatenate([_codes(rollout, efn) for rollout in memory])
        retrieval = replace(retrieval, codes=None)  # every rollout is encoded above
        count = retrieval.k + retrieval.random_steps
        row_of, rollout_of, recalled, similarity, mask = [], [], [], [], []
        for index, rollout in enumerate(sampled):
            pause()
            others = tuple(r for r in memory if r.record.id != rollout.record.id)
            if subsets and others:
                chosen = subsets.permutation(len(others))[: int(len(others) ** subsets.random())]
                others = tuple(others[i] for i in np.sort(chosen))
            retriever = Retriever(FixedSnapshot(Snapshot.of(others, 1, projection)), retrieval)
            for row in np.flatnonzero(np.isin(rollout.arrays.modes, DECIDED)):
                steps = retriever.recall(_query(rollout, row, projection)).steps
                found = [first[s.rollout_id] + rows[s.rollout_id][s.step] for s in steps]
                padding = count - len(found)
                row_of.append(first[rollout.record.id] + row)
                rollout_of.append(index)
                recalled.append(found + [0] * padding)
                similarity.append([*steps.similarity, *[0.0] * padding])
                mask.append([True] * len(found) + [False] * padding)
        self.rollout, self.row = np.array(rollout_of, int), np.array(row_of, int)
        self._recalled = np.array(recalled, int).reshape(-1, count)
        self._similarity = np.array(similarity, np.float32).reshape(-1, count)
        self._mask = np.array(mask, bool).reshape(-1, count)
        self.success = self._columns["success"][self.row] > 0
        self.corrected = self._columns["corrected"][self.row] > 0
        added = self._columns["executed"][self.row] - self._columns["base"][self.row]
        self.target = added * self.corrected[:, None, None]  # a limit's smoothing of the base is no correction

    def __len__(self) -> int:
        return len(self.row)

    def weights(self, base_weight: float) -> np.ndarray:
        """Return float32 (N,): 1 for a corrected success, `base_weight` for a success of the base alone, else 0."""
        return np.where(self.success, np.where(self.corrected, 1.0, base_weight), 0.0).astype(np.float32)

    def batch(self, rows: np.ndarray) -> tuple[Present, Recalled]:
        """Return the decisions `rows`, (B,), as the network read them, or would have read them, at work."""
        columns, here, chosen = self._columns, self.row[rows], self._recalled[rows]
        sketches = [self._sketch(i) for i in here]
        names = (*MOTION, "base", "code", "success")
        memory = {name: torch.from_numpy(columns[name][chosen]) for name in names}
        memory["latent"] = torch.from_numpy(columns["latent"][chosen].mean(axis=2))
        now = {name: torch.from_numpy(columns[name][here]) for name in ("latent", "proprio", "base")}
        similarity, mask = torch.from_numpy(self._similarity[rows]), torch.from_numpy(self._mask[rows])
        return (
            Present(sketch=torch.from_numpy(np.stack(sketches)), **now),
            Recalled(similarity=similarity, mask=mask, **memory),
        )

    def recalled_rollouts(self, sample: int) -> set[str]:
        """Return the identifiers of the rollouts that a sample's memory is from."""
        owner = self._columns["owner"][self._recalled[sample][self._mask[sample]]]
        return {self._memory[i].record.id for i in owner}

    @torch.inference_mode()
    def residuals(self, efn: Efn, gain: float, batch_size: int, pause: Callable[[], None] = lambda: None) -> np.ndarray:
        """Return what a network adds in every decision, float32 (N, H, A), before the limits of the robot."""
        parts = []
        for rows in np.split(np.arange(len(self)), range(batch_size, len(self), batch_size)):
            pause()
            parts.append(gain * efn.eval().residual(*self.batch(rows)).numpy())
        return np.concatenate(parts)

    def _sketch(self, row: int) -> np.ndarray:
        owner = int(self._columns["owner"][row])
        if owner not in self._sketches:  # else a file would be opened for every decision of every batch
            rollout = self._memory[owner]
            self._sketches[owner] = rollout.sketches(*range(len(rollout.arrays.steps)))
        return self._sketches[owner][self._columns["index"][row]].dequantise()


@torch.inference_mode()
def _codes(rollout: StoredRollout, efn: Efn) -> np.ndarray:
    """What the network keeps of what each decision saw, float32 (N, code_size)."""
    if not efn.config.code_size:
        return np.zeros((len(rollout.arrays.steps), 0), np.float32)
    sketches = rollout.sketches(*range(len(rollout.arrays.steps)))
    return efn.code(torch.from_numpy(np.stack([sketch.dequantise() for sketch in sketches]))).numpy()


def _offsets(rollouts: Sequence[StoredRollout]) -> list[int]:
    return np.cumsum([0, *(len(r.arrays.steps) for r in rollouts)])[:-1].tolist()


def _columns(rollouts: Sequence[StoredRollout]) -> dict[str, np.ndarray]:
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


def _query(rollout: StoredRollout, row: int, projection: str) -> RetrievalQuery:
    """What the decision asked memory with, or would have; the same draw for the same seed and step."""
    record, arrays = rollout.record, rollout.arrays
    stamp_ns, step = int(arrays.stamps_ns[row]), int(arrays.steps[row])
    return RetrievalQuery(
        context=StepContext(record.id, step, stamp_ns, record.task, record.instruction, record.seed),
        key=Quantised(arrays.key.q[row], arrays.key.scale[row]),
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
