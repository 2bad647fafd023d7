# SPDX-License-Identifier: MIT
"""Video of an episode: the present image, the recalled one, and how the action was corrected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import imageio.v2 as imageio
import numpy as np

from efn_ros.types import Correction, Observation

SIDE, BARS, MARGIN = 288, 160, 8
INK, PAPER = (40, 40, 40), (250, 250, 250)
BASE, CORRECTED = (150, 150, 150), (214, 96, 32)


def frame(
    current: np.ndarray,
    recalled: np.ndarray | None,
    base: np.ndarray,
    corrected: np.ndarray,
    labels: Sequence[str],
    caption: str,
) -> np.ndarray:
    """Draw a frame.

    Args:
        current: Present image, uint8 (N, N, 3) RGB.
        recalled: Recalled image; None: nothing was recalled.
        base: Base action, (A,), in [-1, 1].
        corrected: Corrected action, likewise.
        labels: Names of the A dimensions.
        caption: Text above the images.

    Returns:
        uint8 (height, width, 3).
    """
    width, height = 2 * SIDE + 3 * MARGIN, SIDE + BARS + 3 * MARGIN + 24
    canvas = np.full((height + height % 2, width + width % 2, 3), PAPER, np.uint8)
    top = MARGIN + 24
    canvas[top : top + SIDE, MARGIN : MARGIN + SIDE] = _fit(current)
    _text(canvas, "now", MARGIN + 6, top + 16, PAPER)
    right = 2 * MARGIN + SIDE
    if recalled is not None:
        canvas[top : top + SIDE, right : right + SIDE] = _fit(recalled)
        _text(canvas, "recalled", right + 6, top + 16, PAPER)
    else:
        _text(canvas, "nothing recalled", right + 70, top + SIDE // 2)
    _text(canvas, caption, MARGIN, 18)
    below = top + SIDE + MARGIN
    middle, half = MARGIN + width // 2, (width - 8 * MARGIN) // 2 - 60
    for i, label in enumerate(labels):
        y = below + 14 + i * (BARS - 20) // max(len(labels), 1)
        _text(canvas, label, MARGIN, y + 12)
        for offset, value, colour in ((0, base[i], BASE), (10, corrected[i], CORRECTED)):
            end = int(middle + half * float(np.clip(value, -1, 1)))
            cv2.rectangle(canvas, (min(middle, end), y + offset), (max(middle, end), y + offset + 8), colour, -1)
    cv2.line(canvas, (middle, below), (middle, below + BARS - 10), INK, 1)
    _text(canvas, "grey: policy alone   orange: corrected", width - 270, 18)
    return canvas


def write(path: Path, frames: Sequence[np.ndarray], rate_hz: float) -> None:
    """Write frames as H.264 in an MP4 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.mimwrite(path, list(frames), fps=rate_hz, macro_block_size=2, quality=7)


def film(
    observations: Sequence[Observation],
    corrections: Sequence[Correction],
    image_of: Callable[[str, int], np.ndarray | None],
    labels: Sequence[str],
) -> list[np.ndarray]:
    """Draw the frames of an episode, without decisions that lack a correction.

    Args:
        observations: Of the episode.
        corrections: Of the episode.
        image_of: (rollout, step) -> the image of a step in the bank; None if it was removed.
        labels: Names of the dimensions of an action.
    """
    by_step = {correction.context.step: correction for correction in corrections}
    frames = []
    for observation in observations:
        correction = by_step.get(observation.context.step)
        if correction is None:
            continue
        recalled = image_of(correction.rollout_id, correction.rollout_step) if correction.rollout_id else None
        image = next(iter(observation.images.values()))
        caption = f"{observation.context.task}  step {correction.context.step}  {correction.mode.name.lower()}"
        frames.append(frame(image, recalled, correction.base[0], correction.corrected[0], labels, caption))
    return frames


def _fit(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)


def _text(canvas: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int] = INK) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
