"""Images as a policy asks for them."""

from __future__ import annotations

import cv2
import numpy as np


def resize_crop(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (size, size, 3): the largest square in the middle of `image`, scaled by area; `image` itself if it fits."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
