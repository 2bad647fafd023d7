# SPDX-License-Identifier: MIT
"""Similarity of N stored images to the present one under an instruction, and its gated fusion with the coarse one.

All functions return float32 (N,) in [0, 1]. NaN says that a cue is absent; an absent cue never counts as zero. Rows are
computed one by one in a fixed order, so that none depends on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from efn_ros.features.keys import unit
from efn_ros.retrieval.similarity import gaussian_kernel

CONTACT_SLOPE = 3.0  # of the contact proxy, which is zero beyond a third of the image's diagonal


class Box(NamedTuple):
    """Corners in pixels, x to the right and y down."""

    x0: float
    y0: float
    x1: float
    y1: float


def appearance_similarity(z: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return S_clip of image features z (N, dz) and present (dz,); NaN without features (dz = 0).

    Source: equation (33).
    """
    if not present.size:
        return np.full(len(z), np.nan, np.float32)
    return np.clip((1 + np.einsum("nd,d->n", unit(z), unit(present))) / 2, 0, 1)


def instruction_gate(z: np.ndarray, present: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Return S_text: the lower similarity of both images, z (N, dz) and present (dz,), to the instruction, text (dz,).

    Source: equation (34).
    """
    return np.minimum(appearance_similarity(z, text), appearance_similarity(present[None], text))


def relation_similarity(r: np.ndarray, present: np.ndarray, sigma: float | Sequence[float]) -> np.ndarray:
    """Return S_rel (35) of relation features r (N, K) and present (K,).

    Args:
        r: Of the stored images; an entry that is NaN in either image is left out.
        present: Of the present image.
        sigma: One for each entry, or one for all, in units of r.

    Returns:
        The kernel; NaN where all entries are left out.

    Raises:
        ValueError: A sigma is not above 0.
    """
    width = np.asarray(sigma, np.float32)
    if not np.all(width > 0):
        raise ValueError(f"sigma is {width.tolist()}; it must be above 0")
    difference = ((r - present) / (width * np.sqrt(2))).astype(np.float32)
    kernel = gaussian_kernel(np.nan_to_num(difference, nan=0).T, np.zeros(difference.shape[1], np.float32))
    return np.where(np.isnan(difference).all(axis=1), np.float32(np.nan), kernel)


def relation_features(
    gripper: Box | None, target: Box | None, size: Sequence[int], opening: float | np.floating = np.nan
) -> np.ndarray:
    """Return r of one image, float32 (4,): 1 - d, intersection over union, contact proxy c* and gripper opening.

    Args:
        gripper: Its box; None where it was not detected, then the first three entries are NaN.
        target: Likewise.
        size: (height, width) of the image, pixels.
        opening: Of the gripper, in [0, 1]; NaN where it is unknown.

    Source: appendix D.3.
    """
    if gripper is None or target is None:
        return np.array([np.nan, np.nan, np.nan, opening], np.float32)
    a, b = np.array([gripper, target], np.float64)
    d = np.linalg.norm((a[:2] + a[2:] - b[:2] - b[2:]) / 2) / np.hypot(size[0], size[1])
    iou = _intersection_over_union(a, b)
    return np.array([1 - d, iou, np.clip(max(iou, 1 - CONTACT_SLOPE * d), 0, 1), opening], np.float32)


def image_similarity(
    appearance: np.ndarray, gate: np.ndarray, relation: np.ndarray, weights: Sequence[float]
) -> np.ndarray:
    """Return S_image: the weighted mean of S_clip, S_text and S_rel, (N,) each.

    Weights are renormalised row by row over the cues that are present, so that a missed detection leaves appearance and
    gate (D.10); a row without a cue that has weight is NaN.

    Args:
        appearance: S_clip (33).
        gate: S_text (34).
        relation: S_rel (35).
        weights: alpha_c, alpha_t and alpha_r.

    Raises:
        ValueError: Weights are negative, or all 0.

    Source: equation (36).
    """
    return convex_combination((appearance, gate, relation), weights)


def set_duplicates(image: np.ndarray, q: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Return S_image (N,), with 1 where the visual key, int8 (N, d), is the present one, (d,).

    Source: appendix D.10, the identity short circuit.
    """
    return np.where((q == present).all(axis=1), np.float32(1), image)


def gated_fusion(embed: np.ndarray, image: np.ndarray, act: np.ndarray, *, alpha: float, beta: float) -> np.ndarray:
    """Return (alpha + (1 - alpha) S_image) S_embed + beta S_act, clipped to [0, 1].

    Args:
        embed: S_embed, (N,).
        image: S_image, (N,); a row with NaN leaves S_embed as it is.
        act: S_act, (N,); a row with NaN adds nothing.
        alpha: Least factor on S_embed, in [0, 1].
        beta: Weight of S_act.

    Raises:
        ValueError: alpha is outside [0, 1], or beta is negative.

    Source: equation (39).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be in [0, 1]")
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta is {beta}; it must be at least 0")
    factor = np.where(np.isnan(image), 1, alpha + (1 - alpha) * image)
    return np.clip(factor * embed + beta * np.nan_to_num(act, nan=0), 0, 1, dtype=np.float32)


def convex_combination(terms: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean of terms, float32 (N,) each, row by row over the terms that are not NaN.

    A row of which all terms with weight are NaN is NaN.

    Raises:
        ValueError: The weights are not as many as the terms, negative, or all 0.
    """
    given = np.asarray(weights, np.float32)
    if len(given) != len(terms) or not np.all(given >= 0) or not 0 < given.sum() < np.inf:
        raise ValueError(f"weights are {given.tolist()}; they must be {len(terms)}, none negative, not all 0")
    stacked = np.stack(terms, axis=1).astype(np.float32)
    masked = np.where(np.isnan(stacked), 0, given)
    total = masked.sum(axis=1)
    mean = (masked * np.nan_to_num(stacked, nan=0)).sum(axis=1) / np.where(total > 0, total, np.nan)
    return np.clip(mean, 0, 1)


def _intersection_over_union(a: np.ndarray, b: np.ndarray) -> float:
    """Of boxes (4,); 0 for two without an area."""
    width, height = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - width * height
    return float(width * height / union) if union > 0 else 0.0
