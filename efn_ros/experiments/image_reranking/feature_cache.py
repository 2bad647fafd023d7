# SPDX-License-Identifier: MIT
"""Features of stored images: computed when a shortlist first needs them, then cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor, ImageFeatures
from efn_ros.experiments.image_reranking.phrases import target_phrase
from efn_ros.experiments.image_reranking.shortlist import StoredStep

LIMIT_BYTES = 64 * 2**20
ENTRY_BYTES = 512  # what Python needs beside the numbers of an entry


class ImageFeatureCache:
    """Features by one extractor, in memory, the least recently used dropped beyond `limit_bytes`; for one thread.

    An entry is the image features of a step, or its relation features for one target phrase.
    """

    def __init__(self, extractor: ImageFeatureExtractor, limit_bytes: int = LIMIT_BYTES) -> None:
        self._extractor, self._limit_bytes, self._bytes = extractor, limit_bytes, 0
        self._entries: OrderedDict[tuple, np.ndarray] = OrderedDict()

    def __call__(self, steps: Sequence[StoredStep], instruction: str) -> ImageFeatures:
        """Return the features of N >= 1 steps under an instruction; all missing ones take one forward pass.

        Raises:
            BankCorruptionError: A payload is damaged; it is skipped from then on, if its reader skips such.
            KeyError: A rollout has no image of the camera; the message names it.
            OSError: A payload cannot be read.
        """
        extractor, target = self._extractor, target_phrase(instruction)

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

    def _rows(self, keys: list[tuple], compute: Callable[[list[int]], np.ndarray | list[np.ndarray]]) -> np.ndarray:
        """Entries by key, (N, ...); compute: returns those of some indices of `keys`."""
        missing = {key: i for i, key in enumerate(keys) if key not in self._entries}
        new = dict(zip(missing, compute(list(missing.values())), strict=True)) if missing else {}
        rows = np.stack([new[key] if key in new else self._entries[key] for key in keys])
        for key, row in zip(keys, rows, strict=True):
            if key not in self._entries:
                self._entries[key] = row.copy()  # a view would keep the whole batch in memory
                self._bytes += row.nbytes + ENTRY_BYTES
            self._entries.move_to_end(key)
        while self._bytes > self._limit_bytes:
            self._bytes -= self._entries.popitem(last=False)[1].nbytes + ENTRY_BYTES
        return rows


def _image(step: StoredStep, camera: str) -> np.ndarray:
    """uint8 (height, width, 3)."""
    rollout = step.rollout
    try:
        return step.payload.image(step.row, camera)
    except KeyError as error:
        raise KeyError(f"camera {camera!r} is not in rollout {rollout.record.id!r}") from error
    except ValueError as error:
        corrupt = rollout.corruption_error(f"image {step.row} of camera {camera!r} cannot be read ({error})")
        if rollout.cache.skip_corrupt:
            rollout.cache.mark_corrupt(rollout, corrupt)
        raise corrupt from error
