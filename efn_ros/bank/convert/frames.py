# SPDX-License-Identifier: MIT
"""Recorded episodes as frames, and safe paths into recordings of unknown origin."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NANOSECONDS = 10**9


@dataclass(frozen=True)
class Frames:
    """A recorded episode of T frames."""

    index: int  # of the episode in its recording
    task: str  # instruction in natural language
    fps: float  # frames a second
    images: dict[str, list[np.ndarray]]  # camera to T images, uint8 (height, width, 3) RGB
    state: np.ndarray  # float32 (T, P)
    action: np.ndarray  # float32 (T, A)
    executed: np.ndarray | None = None  # float32 (T, H, A), chunks that were executed; None if they were not recorded
    base: np.ndarray | None = None  # float32 (T, H, A), chunks of the policy alone, likewise
    success: bool | None = None  # of the episode; None if it was not recorded


def path_inside(directory: Path, name: str | Path) -> Path:
    """Return the path of a file in a directory of unknown origin.

    Raises:
        ValueError: The name, or a symbolic link, leads out of the directory.
    """
    path = directory / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory)):
        raise ValueError(f"{path} leads out of {directory}, which is not allowed; copy the file into it")
    return path
