"""How alike N remembered images and the present one are under an instruction, equations (33)-(36), and how that joins
the coarse similarity, (38)(39).

One function for each equation. All return float32 (N,) in [0, 1]; NaN says that a cue is absent, and an absent cue
never counts as a zero. Rows are computed one by one, in a fixed order: none depends on which others are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from efn_ros.features.keys import unit
from efn_ros.retrieval.similarity import convex_combination, gaussian_kernel

CONTACT_SLOPE = 3.0  # of the contact proxy: none beyond a third of the image's diagonal


class Box(NamedTuple):
    """Corners in pixels, x to the right and y down."""

    x0: float
    y0: float
    x1: float
    y1: float


def appearance(z: np.ndarray, present: np.ndarray) -> np.ndarray:
    """S_clip (33) of image features z (N, dz) and present (dz,); NaN where there are none (dz = 0)."""
    if not present.size:
        return np.full(len(z), np.nan, np.float32)
    return np.clip((1 + np.einsum("nd,d->n", unit(z), unit(present))) / 2, 0, 1)


def gate(z: np.ndarray, present: np.ndarray, text: np.ndarray) -> np.ndarray:
    """S_text (34): how well the worse of both images, z (N, dz) and present (dz,), fits the instruction, text (dz,)."""
    return np.minimum(appearance(z, text), appearance(present[None], text))


def relation(r: np.ndarray, present: np.ndarray, sigma: float | Sequence[float]) -> np.ndarray:
    """S_rel (35) of relation features r (N, K) and present (K,).

    sigma: one for each entry, or one for all, in units of r. An entry that is NaN in either is left out; NaN where all
    are. Raises ValueError for a sigma that is not above 0.
    """
    sigma = np.asarray(sigma, np.float32)
    if not np.all(sigma > 0):
        raise ValueError(f"sigma is {sigma.tolist()}; it must be above 0")
    difference = ((r - present) / (sigma * np.sqrt(2))).astype(np.float32)
    kernel = gaussian_kernel(np.nan_to_num(difference, nan=0).T, np.zeros(difference.shape[1], np.float32))
    return np.where(np.isnan(difference).all(axis=1), np.float32(np.nan), kernel)


def relation_features(
    gripper: Box | None, target: Box | None, size: tuple[int, int], opening: float = np.nan
) -> np.ndarray:
    """r of one image (D.3), float32 (4,): 1 - d, iou, contact c* and how far the gripper is open.

    size: (height, width) of the image, in pixels. Without both boxes the first three are NaN; `opening`, in [0, 1], is
    NaN where telemetry does not say it.
    """
    if gripper is None or target is None:
        return np.array([np.nan, np.nan, np.nan, opening], np.float32)
    a, b = np.array([gripper, target], np.float64)
    d = np.linalg.norm((a[:2] + a[2:] - b[:2] - b[2:]) / 2) / np.hypot(*size)
    iou = _iou(a, b)
    return np.array([1 - d, iou, np.clip(max(iou, 1 - CONTACT_SLOPE * d), 0, 1), opening], np.float32)


def image_similarity(
    appearance: np.ndarray, gate: np.ndarray, relation: np.ndarray, weights: Sequence[float]
) -> np.ndarray:
    """S_image (36): the mean of the three, each (N,), under weights (alpha_c, alpha_t, alpha_r).

    Row by row the weights are renormalised over what is there, so that a detector's miss leaves image cosine and text
    gate (D.10); NaN where nothing that has weight is. Raises ValueError for weights that are negative or all 0.
    """
    return convex_combination((appearance, gate, relation), weights)


def duplicates(image: np.ndarray, q: np.ndarray, present: np.ndarray) -> np.ndarray:
    """S_image, but 1 where the int8 summary q (N, d) is the present one's, (d,): the identity short circuit of D.10."""
    return np.where((q == present).all(axis=1), np.float32(1), image)


def additive(embed: np.ndarray, image: np.ndarray, act: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """S (38): the mean of S_embed (32), S_image (36) and S_act (37), each (N,), under weights (w_e, w_i, w_a).

    Where one is NaN the others take its weight. Raises as `image_similarity` does.
    """
    return convex_combination((embed, image, act), weights)


def gated(embed: np.ndarray, image: np.ndarray, act: np.ndarray, *, alpha: float, beta: float) -> np.ndarray:
    """S (39) = (alpha + (1 - alpha) S_image) S_embed + beta S_act, each (N,), clipped to [0, 1].

    Where S_image is NaN, S_embed passes as it is; where S_act is NaN, nothing is added. Raises ValueError for an alpha
    outside [0, 1] or a negative beta.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be in [0, 1]")
    if not 0 <= beta < np.inf:
        raise ValueError(f"beta is {beta}; it must be at least 0")
    passes = np.where(np.isnan(image), 1, alpha + (1 - alpha) * image)
    return np.clip(passes * embed + beta * np.nan_to_num(act, nan=0), 0, 1, dtype=np.float32)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of boxes (4,); 0 for two without an area."""
    width, height = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - width * height
    return float(width * height / union) if union > 0 else 0.0
