# SPDX-License-Identifier: MIT
"""Training samples from a bank: each decision with what is recalled for it from the other rollouts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from efn_ros.bank import StoredRollout
from efn_ros.bank.store.snapshot import FixedSnapshot, Snapshot
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import MOTION, Present, Recalled
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.training.decisions import concatenate, decision_columns
from efn_ros.types import Mode, Quantised, RetrievalQuery, StepContext

MIN_BOUND = 1e-6  # keeps the loss finite in a dimension that may not be corrected
DECIDED = (Mode.CORRECTED, Mode.BASE, Mode.SHADOW)  # modes of decisions that become samples; not a hold or a stop


def is_held_out(rollout_id: str, fraction: float) -> bool:
    """Return whether a rollout is held out for validation, by a hash of its identifier: a growing bank changes none."""
    digest = hashlib.blake2b(rollout_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


class BankDataset:
    """Decisions of some rollouts, N in all, each with what is recalled for it from the other rollouts.

    Attributes:
        rollout: int (N,), index of each decision's rollout among the sampled rollouts.
        row: int (N,), row of each decision among the decisions of the whole memory.
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
            sampled: Rollouts whose decisions become samples; the same rollout may occur more than once.
            memory: Rollouts to recall from, those of `sampled` among them.
            retrieval: Settings of recall on the robot.
            efn: The network that the samples are for.
            projection: Identity of the projection of the rollouts' keys.
            pause: Called before every rollout; may raise to interrupt.
            subsets: Draws for each rollout a subset of the others to recall from, of log-uniform size; None: recall
                from all others.

        Raises:
            ValueError: The sizes of rollouts and network differ.
        """
        _check_sizes(memory[0], efn)
        self._memory, self._sketches = memory, dict[int, list[Quantised]]()
        self._columns = concatenate([_columns(owner, rollout, efn) for owner, rollout in enumerate(memory)])
        decisions = ((rollout.record.id, step) for rollout in memory for step in rollout.arrays.steps.tolist())
        row_of = {decision: row for row, decision in enumerate(decisions)}
        retrieval = replace(retrieval, codes=None)  # every rollout is encoded above
        count = retrieval.k + retrieval.random_steps
        row, rollout_of, recalled, similarity, lengths = [], [], [], [], []
        for index, rollout in enumerate(sampled):
            pause()
            others = tuple(r for r in memory if r.record.id != rollout.record.id)
            if subsets and others:
                chosen = subsets.permutation(len(others))[: int(len(others) ** subsets.random())]
                others = tuple(others[i] for i in np.sort(chosen))
            retriever = Retriever(FixedSnapshot(Snapshot.of(others, 1, projection)), retrieval)
            for i in np.flatnonzero(np.isin(rollout.arrays.modes, DECIDED)).tolist():
                query = _query(rollout, i, projection)
                steps = retriever.recall(query).steps
                padding = [0] * (count - len(steps))
                row.append(row_of[rollout.record.id, query.context.step])
                rollout_of.append(index)
                recalled.append([row_of[step.rollout_id, step.step] for step in steps] + padding)
                similarity.append([*steps.similarity, *padding])
                lengths.append(len(steps))
        self.row, self.rollout = np.array(row, int), np.array(rollout_of, int)
        self._recalled = np.array(recalled, int).reshape(-1, count)
        self._similarity = np.array(similarity, np.float32).reshape(-1, count)
        self._mask = np.arange(count) < np.array(lengths, int)[:, None]
        self.success = self._columns["success"][self.row] > 0
        self.corrected = self._columns["corrected"][self.row]
        added = self._columns["executed"][self.row] - self._columns["base"][self.row]
        # The limits may smooth the base action of a decision without correction; that is nothing to learn.
        self.target = added * self.corrected[:, None, None]

    def __len__(self) -> int:
        return len(self.row)

    def weights(self, base_weight: float) -> np.ndarray:
        """Return float32 (N,): 1 for a corrected success, `base_weight` for a success of the base alone, else 0."""
        return np.where(self.success, np.where(self.corrected, 1.0, base_weight), 0.0).astype(np.float32)

    def batch(self, rows: np.ndarray) -> tuple[Present, Recalled]:
        """Return the decisions `rows`, (B,), as the network would read them on the robot."""
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
        """Return the identifiers of the rollouts that are recalled for a sample."""
        owner = self._columns["owner"][self._recalled[sample][self._mask[sample]]]
        return {self._memory[i].record.id for i in owner}

    @torch.inference_mode()
    def residuals(self, efn: Efn, gain: float, batch_size: int, pause: Callable[[], None] = lambda: None) -> np.ndarray:
        """Return the residual of a network in every decision, float32 (N, H, A), before the limits of the robot."""
        parts = []
        for rows in np.split(np.arange(len(self)), range(batch_size, len(self), batch_size)):
            pause()
            parts.append(gain * efn.eval().residual(*self.batch(rows)).numpy())
        return np.concatenate(parts)

    def _sketch(self, row: int) -> np.ndarray:
        owner = int(self._columns["owner"][row])
        if owner not in self._sketches:  # else every decision of every batch would open a file
            rollout = self._memory[owner]
            self._sketches[owner] = rollout.sketches(*range(len(rollout.arrays.steps)))
        return self._sketches[owner][self._columns["index"][row]].dequantise()


def _columns(owner: int, rollout: StoredRollout, efn: Efn) -> dict[str, np.ndarray]:
    """Columns of a rollout's decisions; (owner, index) identifies each."""
    count = len(rollout.arrays.steps)
    return decision_columns(rollout) | {
        "corrected": rollout.arrays.modes == Mode.CORRECTED,
        "owner": np.full(count, owner),
        "index": np.arange(count),
        "code": _codes(rollout, efn),
    }


@torch.inference_mode()
def _codes(rollout: StoredRollout, efn: Efn) -> np.ndarray:
    """Codes of the sketches of all decisions, float32 (N, code_size)."""
    if not efn.config.code_size:
        return np.zeros((len(rollout.arrays.steps), 0), np.float32)
    sketches = rollout.sketches(*range(len(rollout.arrays.steps)))
    return efn.code(torch.from_numpy(np.stack([sketch.dequantise() for sketch in sketches]))).numpy()


def _query(rollout: StoredRollout, row: int, projection: str) -> RetrievalQuery:
    """The query of a decision; recall draws the same random steps for the same seed and step."""
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


def _check_sizes(rollout: StoredRollout, efn: Efn) -> None:
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
