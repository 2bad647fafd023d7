# SPDX-License-Identifier: MIT
"""Image messages to NumPy and back, without Python lists.

Colours are converted by `cv_bridge` if it is installed and by OpenCV otherwise, with equal results.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

DEPTH_RANGE_MM = (0, 2000)  # is mapped to 0 to 255 and clipped; a depth of 0 means no measurement

# Encoding -> type of a channel, number of channels, and OpenCV's conversion to RGB.
_ENCODINGS = {
    "rgb8": (np.uint8, 3, None),
    "bgr8": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "16UC1": (np.uint16, 1, None),
}
_SIGNATURES = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


class ImageError(ValueError):
    """An image message that cannot be read, or an array that is no RGB image."""


def to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """Return the RGB image of a message.

    Alpha is dropped, grey is repeated, and depth (16UC1, millimetres) is scaled from DEPTH_RANGE_MM.

    Returns:
        uint8 (height, width, 3), C-contiguous; it may share the message's memory.

    Raises:
        ImageError: Unknown encoding or format, zero size, a step below the width, truncated or undecodable data.
    """
    pixels = to_array(message)
    if pixels.dtype == np.uint16:
        return cv2.cvtColor(_depth_to_grey(pixels), cv2.COLOR_GRAY2RGB)
    if isinstance(message, CompressedImage):
        if pixels.ndim == 2:
            return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if _is_stored_as_bgr(message) else pixels
    bridge = _bridge()
    if bridge is not None and _bridge_reads(message):
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"))
    conversion = _ENCODINGS[message.encoding][2]
    return np.ascontiguousarray(pixels) if conversion is None else cv2.cvtColor(pixels, conversion)


def to_array(message: Image | CompressedImage) -> np.ndarray:
    """Return the pixels of a message without conversion.

    Returns:
        uint8 or uint16 (height, width) or (height, width, channels), in native byte order. Channels are in the order of
        the encoding; of a decoded JPEG or PNG in the order of OpenCV, without alpha. The array may share the message's
        memory, and its rows may be padded.

    Raises:
        ImageError: As for `to_rgb`.
    """
    if isinstance(message, CompressedImage):
        return _decode(message)
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    if encoding not in _ENCODINGS:
        raise ImageError(
            f"image encoding {encoding!r} is unknown; publish one of {', '.join(_ENCODINGS)}, or jpeg or png compressed"
        )
    dtype, channels, _ = _ENCODINGS[encoding]
    dtype = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
    what = f"{encoding} image of {width} x {height} (step {step}, {len(message.data)} bytes)"
    if height == 0 or width == 0:
        raise ImageError(f"{what} has no pixels; set height and width")
    row = width * channels * dtype.itemsize
    if step < row:
        raise ImageError(f"{what}: a row needs {row} bytes; set step to that, or to more where rows are padded")
    if len(message.data) < height * step:
        raise ImageError(f"{what}: truncated, it needs {height * step} bytes; send height * step of them")
    strides = (step, channels * dtype.itemsize, dtype.itemsize)
    pixels = np.ndarray((height, width, channels), dtype, message.data, strides=strides)
    pixels = pixels.astype(dtype.newbyteorder("="), copy=False)
    return pixels[..., 0] if channels == 1 else pixels


def from_rgb(image: np.ndarray, header: Header) -> Image:
    """Return an rgb8 message with a copy of an image.

    Args:
        image: uint8 (height, width, 3) RGB.
        header: Header of the message.

    Raises:
        ImageError: The array has another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"an image of {image.dtype} {image.shape} is no RGB image; give uint8 (height, width, 3)")
    height, width, _ = image.shape
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    message.data.frombytes(np.ascontiguousarray(image).data)  # one copy; assigning it would make another
    return message


def _decode(message: CompressedImage) -> np.ndarray:
    what = f"compressed image of format {message.format!r} ({len(message.data)} bytes)"
    kind = message.format.split(";")[-1].lower().replace("jpg", "jpeg")  # "jpeg", or "bgr8; jpeg compressed bgr8"
    kind = next((known for known in _SIGNATURES if known in kind), None)
    if kind is None or "compresseddepth" in message.format.lower():
        raise ImageError(f"{what}: the format is unknown; send jpeg or png")
    data = bytes(message.data)
    # Some versions of OpenCV decode the beginning of a truncated file, and leave the rest grey.
    if not data.startswith(_SIGNATURES[kind]) or _ENDS[kind] not in data:
        raise ImageError(f"{what} is no whole {kind} file; send all of its bytes")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ImageError(f"{what} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise ImageError(f"{what} cannot be decoded; check that it holds a {kind} file")
    if pixels.dtype != np.uint8 and pixels.ndim == 3:
        raise ImageError(f"{what} holds colours of {pixels.dtype}; send 8 bits a channel")
    return pixels


def _is_stored_as_bgr(message: CompressedImage) -> bool:
    """Return whether a decoded file is BGR; the format names another order: "rgb8; jpeg compressed rgb8"."""
    return "compressed rgb" not in message.format


def _depth_to_grey(depth_mm: np.ndarray) -> np.ndarray:
    near, far = DEPTH_RANGE_MM
    clipped = np.clip(depth_mm, near, far).astype(np.uint32) - near
    return ((clipped * 255 + (far - near) // 2) // (far - near)).astype(np.uint8)


@functools.cache
def _bridge():
    """Return a CvBridge, or None if it is not installed."""
    try:
        from cv_bridge import CvBridge  # pyright: ignore[reportMissingImports]

        # It converts colours, and would otherwise be imported with the first image.
        from cv_bridge.boost import cv_bridge_boost  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return CvBridge()


def _bridge_reads(message: Image) -> bool:
    """Return whether cv_bridge reads a message: it needs rows of whole pixels, and with NumPy 2 little-endian data."""
    return message.step % _ENCODINGS[message.encoding][1] == 0 and not message.is_bigendian
