# SPDX-License-Identifier: MIT
"""Image preprocessing of the policies."""

from __future__ import annotations

import cv2
import numpy as np


def resize_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Crop the largest centred square of an image and scale it by area averaging.

    Args:
        image: uint8 (height, width, 3).
        size: Side of the result, pixels.

    Returns:
        uint8 (size, size, 3); `image` itself if it has that size.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
