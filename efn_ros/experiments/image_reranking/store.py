"""Looks of remembered steps: made when a shortlist first needs them, and kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor, ImageFeatures
from efn_ros.experiments.image_reranking.phrases import target_of
from efn_ros.experiments.image_reranking.shortlist import RememberedStep

LIMIT_BYTES = 64 * 2**20
ENTRY_BYTES = 512  # what Python needs to keep a few numbers by name


class ImageFeatureStore:
    """Looks by one extractor, in memory, those longest unused dropped beyond `limit_bytes`; for one thread.

    Image features are kept for each step, relation features for each step and thing that an instruction is about.
    """

    def __init__(self, extractor: ImageFeatureExtractor, limit_bytes: int = LIMIT_BYTES) -> None:
        self._extractor, self._limit_bytes, self._bytes = extractor, limit_bytes, 0
        self._kept: OrderedDict[tuple, np.ndarray] = OrderedDict()

    def __call__(self, steps: Sequence[RememberedStep], instruction: str) -> ImageFeatures:
        """The looks of N >= 1 steps under an instruction, side by side. What is not kept is made, all images in one
        forward pass.

        Raises BankCorruptionError for a payload that is not what was written, which is skipped from then on if its
        reader skips such; KeyError, naming it, for a camera that the rollout has not; and OSError.
        """
        extractor, target = self._extractor, target_of(instruction)

        @cache
        def image(i: int) -> np.ndarray:
            return _image(steps[i], extractor.camera)

        def features(missing: list[int]) -> np.ndarray:
            return extractor.features([image(i) for i in missing])

        def relations(missing: list[int]) -> list[np.ndarray]:
            return [extractor.relation(image(i), target, steps[i].proprio) for i in missing]

        keys = [(step.rollout.record.payload, step.row) for step in steps]
        z = self._rows(keys, features)
        return ImageFeatures(z, self._rows([(*key, target) for key in keys], relations))

    def _rows(self, keys: list[tuple], make: Callable[[list[int]], Sequence[np.ndarray]]) -> np.ndarray:
        """(N, ...) by key. make: given indices of `keys`, makes theirs."""
        missing = {key: i for i, key in enumerate(keys) if key not in self._kept}
        made = dict(zip(missing, make(list(missing.values())), strict=True)) if missing else {}
        rows = np.stack([made[key] if key in made else self._kept[key] for key in keys])
        for key, row in zip(keys, rows, strict=True):
            if key not in self._kept:
                self._kept[key] = row.copy()  # or the whole batch would be kept
                self._bytes += row.nbytes + ENTRY_BYTES
            self._kept.move_to_end(key)
        while self._bytes > self._limit_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes + ENTRY_BYTES
        return rows


def _image(step: RememberedStep, camera: str) -> np.ndarray:
    """uint8 (height, width, 3)."""
    stored = step.rollout
    try:
        return step.payload.image(step.row, camera)
    except KeyError as error:
        raise KeyError(f"camera {camera!r} is not in rollout {stored.record.id!r}") from error
    except ValueError as error:
        corrupt = stored.corrupt(f"image {step.row} of camera {camera!r} cannot be read ({error})")
        if stored.cache.skip_corrupt:
            stored.cache.mark_corrupt(stored, corrupt)
        raise corrupt from error
