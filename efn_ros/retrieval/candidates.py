"""The remembered steps that a query is compared with, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numkong
import numpy as np

from efn_ros.bank.format.payload_file import PayloadFile
from efn_ros.bank.format.steps import Steps
from efn_ros.bank.store.rollout import StoredRollout
from efn_ros.experiments.image_reranking.shortlist import RememberedStep, Shortlist
from efn_ros.features.keys import mean_latent
from efn_ros.features.sketches import quantise
from efn_ros.retrieval.config import RecallConfig
from efn_ros.types import Experiences, PolicyStep, Quantised


class _Candidates:
    """All steps of the chosen rollouts side by side, in the order they were stored, and of those that are recallable, C
    of them, what is compared."""

    def __init__(
        self, rollouts: list[StoredRollout], steps: list[Steps], payloads: list[PayloadFile], config: RecallConfig
    ) -> None:
        self.rollouts, self.records = rollouts, [rollout.record for rollout in rollouts]
        self.payloads = payloads  # open, whatever is forgotten while the episode runs
        names = [name for name in Steps.__dataclass_fields__ if name != "latent"]  # large, and only of those recalled
        column = {name: np.concatenate([getattr(s, name) for s in steps]) for name in names}
        self.latents, self.keys, self.key_norms = zip(*((s.latent, s.key, s.key_norm) for s in steps), strict=True)
        counts = [len(s.steps) for s in steps]
        self.rollout, self.first = np.repeat(np.arange(len(rollouts)), counts), np.cumsum([0, *counts])[:-1]
        follows = (np.diff(column["steps"]) == 1) & (np.diff(self.rollout) == 0)
        row = np.arange(len(self.rollout))
        self.after, self.before = row + np.append(follows, False), row - np.insert(follows, 0, False)
        self.row = np.flatnonzero(column["recallable"])
        self.column = {name: column[name] for name in ("steps", "base", "executed", "proprio")}

        if len(self.row) < len(row):
            column = {name: values[self.row] for name, values in column.items()}
        key, latent, proprio = (column[name] for name in ("key", "latent_key", "proprio"))
        self.key_size, self.latent_size, self.proprio_size = key.shape[1], latent.shape[1], proprio.shape[1]
        present = (True, self.latent_size > 0, self.proprio_size > 0)
        cues = np.where(present, (config.visual, config.latent, config.proprio), 0)
        if not cues.any():
            raise ValueError("the bank holds none of the cues that have weight; give visual, latent or proprio some")
        visual, latent_weight, self.proprio_weight = (cues / cues.sum()).astype(np.float32)
        self.visual_weight = visual
        # A cosine, at most 1, says (1 + cosine) / 2.
        self.always = (visual + latent_weight) / 2
        self.cosines = {
            name: (numkong.dots_pack(q, "int8"), weight / 2 * column[norm])
            for name, q, weight, norm in (
                ("key", key, visual, "key_norm"),
                ("latent", latent, latent_weight, "latent_norm"),
            )
            if weight
        }
        self.sharpness = np.sqrt(self._half_precision(proprio, config))
        self.sharpened = np.ascontiguousarray((proprio * self.sharpness).T)

        lengths = np.array([rollout.record.length for rollout in rollouts], np.float32)
        self.prior = np.exp(-np.float32(config.beta) * lengths / lengths.mean())[self.rollout[self.row]]  # g of (18)
        self.outcome = np.array([rollout.record.outcome for rollout in rollouts], np.uint8)
        self.length = np.array([rollout.record.length for rollout in rollouts], np.uint32)

    @staticmethod
    def _half_precision(proprio: np.ndarray, config: RecallConfig) -> np.ndarray:
        """1 / (2 sigma^2) of (35) for each entry of proprioception; one that never changes tells nothing and gets 0."""
        if config.proprio_sigma is not None:
            sigma = np.broadcast_to(np.asarray(config.proprio_sigma, np.float32), proprio.shape[1:])
        else:
            sigma = np.ptp(proprio, axis=0) / 3
        return np.where(sigma > 1e-6, 0.5 / np.maximum(sigma, 1e-6) ** 2, 0).astype(np.float32)

    def similarity(self, query: PolicyStep) -> np.ndarray:
        """Fused similarity (38) of every candidate, float32 (C,) in [0, 1].

        Cosines are taken in whole numbers, over int8, and sums in the order of a row: so the result does not depend on
        where a candidate lies, on the number of threads or on the processor's instructions.
        """
        asked = {"key": query.key.q, "latent": quantise(mean_latent(query.latent)).q}
        for name, found, expected in (
            ("key", asked["key"], (self.key_size,)),
            ("latent", asked["latent"], (self.latent_size,)),
            ("proprio", query.proprio, (self.proprio_size,)),
        ):
            if np.shape(found) != expected:
                raise ValueError(f"{name} of the query has shape {np.shape(found)}; the bank holds {expected}")
        similarity = np.full(len(self.row), self.always, np.float32)
        for name, (packed, weight) in self.cosines.items():
            q = np.ascontiguousarray(asked[name])
            products = np.asarray(numkong.dots_packed(q[None], packed))[0]
            norm = math.sqrt(max(int(numkong.dot(q, q)), 1))
            similarity += np.multiply(products, weight * np.float32(1 / norm), dtype=np.float32)
        if self.proprio_weight:
            distance = np.zeros_like(similarity)
            for column, value in zip(
                self.sharpened, self.sharpness * np.asarray(query.proprio, np.float32), strict=True
            ):
                difference = column - value
                distance += np.multiply(difference, difference, out=difference)
            similarity += self.proprio_weight * np.exp(np.negative(distance, out=distance), out=distance)
        return np.clip(similarity, 0, 1, out=similarity)

    def experiences(
        self, chosen: np.ndarray, similarity: np.ndarray, score: np.ndarray, probability: np.ndarray, codes: np.ndarray
    ) -> Experiences:
        """Of the candidates `chosen`, (M,). similarity: of all candidates. score, probability: (M,). codes: (M, C)."""
        row, column = self.row[chosen], self.column
        before, after, rollout = self.before[row], self.after[row], self.rollout[row]
        records = [self.records[i] for i in rollout.tolist()]
        return Experiences(
            rollout_id=tuple([record.id for record in records]),
            step=column["steps"][row].astype(np.uint32),
            instruction=tuple([record.instruction for record in records]),
            outcome=self.outcome[rollout],
            rollout_length=self.length[rollout],
            executed=column["executed"][row],
            base=column["base"][row],
            proprio=column["proprio"][row],
            proprio_next=column["proprio"][after],
            executed_before=column["executed"][before] * (before < row)[:, None, None],
            proprio_before=column["proprio"][before],
            latent=self._latents(rollout, row - self.first[rollout]),
            similarity=similarity[chosen].astype(np.float64),
            score=score.astype(np.float64),
            probability=probability,
            code=codes,
        )

    def _latents(self, rollout: np.ndarray, row: np.ndarray) -> np.ndarray:
        """float32 (M, dz), row by row: to hold them all side by side would take longer than an episode asks for."""
        latent = np.empty((len(row), self.latents[0].shape[1]), np.float32)
        for i, (of, at) in enumerate(zip(rollout.tolist(), row.tolist(), strict=True)):
            latent[i] = self.latents[of][at]
        return latent

    def shortlist(self, chosen: np.ndarray, similarity: np.ndarray, query: PolicyStep) -> Shortlist:
        """Of the candidates `chosen`, (M,), what is looked at. similarity: of all candidates."""
        row = self.row[chosen]
        rollout, place = self.rollout[row], row - self.first[self.rollout[row]]
        steps = [
            RememberedStep(self.rollouts[of], self.payloads[of], at, proprio)
            for of, at, proprio in zip(rollout.tolist(), place.tolist(), self.column["proprio"][row], strict=True)
        ]
        q = np.stack([self.keys[of][at] for of, at in zip(rollout, place, strict=True)])
        norm = np.array([self.key_norms[of][at] for of, at in zip(rollout, place, strict=True)])
        products = np.einsum("nd,d->n", q, query.key.q, dtype=np.int64)
        length = math.sqrt(max(int(np.dot(query.key.q.astype(np.int64), query.key.q)), 1))
        coarse, embed = similarity[chosen], ((1 + products * norm / length) / 2).astype(np.float32)
        rest, nothing = 1 - self.visual_weight, np.full_like(coarse, np.nan)
        phase = np.clip((coarse - self.visual_weight * embed) / rest, 0, 1) if rest > 0 else nothing
        return Shortlist(steps, q, query.key.q, coarse, embed, phase)

    def next(self, candidate: int) -> int:
        """The candidate of the decision after this one's; -1 where there is none, or it is blank."""
        row = self.row[candidate]
        after = self.after[row]
        place = int(np.searchsorted(self.row, after))
        return place if after != row and place < len(self.row) and self.row[place] == after else -1

    def place(self, candidate: int) -> tuple[StoredRollout, int]:
        """The rollout of a candidate, and its row in it."""
        row = self.row[candidate]
        rollout = self.rollout[row]
        return self.rollouts[rollout], int(row - self.first[rollout])

    def find(self, rollout: StoredRollout, row: int) -> int:
        """The candidate that is this recallable row of a rollout; -1 where the rollout is not among these."""
        if rollout not in self.rollouts:
            return -1
        return int(np.searchsorted(self.row, self.first[self.rollouts.index(rollout)] + row))

    def tokens(self, candidate: int) -> list[Quantised]:
        """Sketches of a candidate and of the decision after it. Raises BankCorruptionError."""
        row = self.row[candidate]
        rollout = self.rollout[row]
        return self.sketches(rollout, [int(r - self.first[rollout]) for r in (row, self.after[row])])

    def sketches(self, rollout: int, rows: Sequence[int]) -> list[Quantised]:
        """Of some decisions of a chosen rollout. Raises BankCorruptionError."""
        try:
            return self.payloads[rollout].sketches(rows)
        except ValueError as error:
            stored = self.rollouts[rollout]
            corrupt = stored.corrupt(f"sketches {tuple(rows)} cannot be read ({error})")
            if stored.cache.skip_corrupt:
                stored.cache.brand(stored, corrupt)
            raise corrupt from error
