# SPDX-License-Identifier: MIT
"""Image messages: every encoding in and out, rows padded or not, with cv_bridge and without."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is not importable: no ROS 2 here")

import cv2
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from efn_ros.features.images import resize_crop
from efn_ros.ros import images
from efn_ros.ros.images import DEPTH_RANGE_MM, ImageError, from_rgb, to_array, to_rgb

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "16UC1": 1}
COLOURS = [encoding for encoding in CHANNELS if encoding != "16UC1"]
sizes = st.integers(1, 12)


@st.composite
def pixels(draw, encodings=tuple(CHANNELS)) -> tuple[str, np.ndarray]:
    """An encoding and the array that a message of it holds."""
    encoding = draw(st.sampled_from(encodings))
    shape = (draw(sizes), draw(sizes), *([CHANNELS[encoding]] if CHANNELS[encoding] > 1 else []))
    return encoding, draw(arrays(np.uint16 if encoding == "16UC1" else np.uint8, shape))


def make(encoding: str, array: np.ndarray, padding: int = 0, big: bool = False) -> Image:
    """Return a message of `array` with `padding` arbitrary bytes after each row."""
    height, width = array.shape[:2]
    rows = array.astype(array.dtype.newbyteorder(">" if big else "<")).reshape(height, -1).view(np.uint8)
    rows = np.hstack([rows, np.full((height, padding), 0xAB, np.uint8)])
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=rows.shape[1])
    message.data.frombytes(rows.tobytes())
    return message


def expected_rgb(encoding: str, array: np.ndarray) -> np.ndarray:
    if encoding == "16UC1":
        near, far = DEPTH_RANGE_MM
        grey = np.floor((np.clip(array.astype(float), near, far) - near) / (far - near) * 255 + 0.5)
        return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    if encoding == "mono8":
        return np.repeat(array[..., None], 3, axis=2)
    return array[..., :3] if encoding.startswith("rgb") else array[..., 2::-1]


def compress(array: np.ndarray, extension: str, message_format: str | None = None) -> CompressedImage:
    done, data = cv2.imencode(f".{extension}", array)
    assert done
    message = CompressedImage(format=message_format or extension)
    message.data.frombytes(data.tobytes())
    return message


def no_bridge():
    return None


@pytest.fixture(params=["as installed", "without cv_bridge"])
def converter(request, monkeypatch):
    """Run the test with cv_bridge, if it is installed, and without."""
    if request.param == "without cv_bridge":
        monkeypatch.setattr(images, "_bridge", no_bridge)


@pytest.mark.usefixtures("converter")
def test_every_encoding_becomes_rgb():
    @given(pixels(), st.integers(0, 9), st.booleans())
    def check(encoding_and_array, padding, big):
        encoding, array = encoding_and_array
        rgb = to_rgb(make(encoding, array, padding, big))
        assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
        np.testing.assert_array_equal(rgb, expected_rgb(encoding, array))

    check()


@given(pixels(), st.integers(0, 9), st.booleans())
def test_the_raw_array_is_what_was_sent(encoding_and_array, padding, big):
    encoding, array = encoding_and_array
    raw = to_array(make(encoding, array, padding, big))
    assert raw.dtype == array.dtype and raw.dtype.isnative
    np.testing.assert_array_equal(raw, array)


@given(pixels(encodings=("rgb8",)))
def test_from_rgb_and_back(encoding_and_array):
    image = encoding_and_array[1]
    header = Header(frame_id="camera")
    for each in (image, image[::-1, ::-1], image.transpose(1, 0, 2)):  # not contiguous ones too
        message = from_rgb(each, header)
        assert (message.encoding, message.step, message.header) == ("rgb8", 3 * each.shape[1], header)
        assert message.is_bigendian == 0 and len(message.data) == each.size
        np.testing.assert_array_equal(to_rgb(message), each)


def test_from_rgb_copies():
    image = np.zeros((2, 2, 3), np.uint8)
    message = from_rgb(image, Header())
    image[:] = 9
    assert not to_rgb(message).any()


def test_depth_is_scaled_from_its_range():
    depth = np.array([[0, 1000, 2000, 2001, 65535]], np.uint16)
    assert DEPTH_RANGE_MM == (0, 2000)
    assert to_rgb(make("16UC1", depth))[0, :, 0].tolist() == [0, 128, 255, 255, 255]


@given(pixels(encodings=("rgb8", "mono8")))
def test_png_is_exact(encoding_and_array):
    encoding, array = encoding_and_array
    message = compress(array[..., ::-1] if encoding == "rgb8" else array, "png", "bgr8; png compressed bgr8")
    np.testing.assert_array_equal(to_rgb(message), expected_rgb(encoding, array))


@pytest.mark.parametrize("name", ["jpeg", "jpg", "JPEG", "bgr8; jpeg compressed bgr8", "rgb8; jpeg compressed bgr8"])
def test_jpeg_is_close(name):
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[:, :24], rgb[:, 24:] = (250, 30, 20), (10, 60, 240)
    decoded = to_rgb(compress(rgb[..., ::-1], "jpg", name))
    assert decoded.shape == rgb.shape and decoded.flags.c_contiguous
    assert np.abs(decoded.astype(int) - rgb).mean() < 8


def test_a_jpeg_that_was_stored_as_rgb():
    rgb = np.full((16, 16, 3), (250, 30, 20), np.uint8)
    decoded = to_rgb(compress(rgb, "jpg", "rgb8; jpeg compressed rgb8"))
    assert np.abs(decoded.astype(int) - rgb).max() < 8


def test_a_png_of_depth():
    depth = np.array([[0, 500, 3000]], np.uint16)
    message = compress(depth, "png", "16UC1; png compressed")
    np.testing.assert_array_equal(to_array(message), depth)
    np.testing.assert_array_equal(to_rgb(message), expected_rgb("16UC1", depth))


def change(message, **fields):
    for name, value in fields.items():
        setattr(message, name, value)
    return message


GREY = np.full((4, 6, 3), 7, np.uint8)


@pytest.mark.usefixtures("converter")
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"encoding": "yuv422"}, "encoding 'yuv422' is unknown; publish one of rgb8, .*16UC1"),
        ({"encoding": ""}, "encoding '' is unknown"),
        ({"height": 0}, r"rgb8 image of 6 x 0 \(step 18, 72 bytes\) has no pixels"),
        ({"width": 0}, "rgb8 image of 0 x 4 .* has no pixels"),
        ({"step": 17}, r"\(step 17, 72 bytes\): a row needs 18 bytes"),
        ({"encoding": "rgba8"}, r"\(step 18, 72 bytes\): a row needs 24 bytes"),
        ({"height": 5}, r"rgb8 image of 6 x 5 \(step 18, 72 bytes\): truncated, it needs 90 bytes"),
        ({"data": b""}, "truncated"),
    ],
)
def test_an_invalid_image_is_named(fields, error):
    with pytest.raises(ImageError, match=error):
        to_rgb(change(from_rgb(GREY, Header()), **fields))


@pytest.mark.parametrize("extension", ["jpeg", "png"])
@pytest.mark.parametrize("keep", [0, 1, 20, 0.5, -1, -10])
def test_a_truncated_file_is_refused(extension, keep):
    message = compress(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8), extension)
    length = int(len(message.data) * keep) if isinstance(keep, float) else keep
    message.data = message.data[:length]
    with pytest.raises(ImageError, match=f"of format '{extension}' .* is no whole {extension} file"):
        to_rgb(message)


@pytest.mark.parametrize("extension", ["jpeg", "png"])
def test_a_corrupt_file_is_refused(extension):
    message = compress(GREY, extension)
    middle = slice(12, -12)
    message.data[middle] = type(message.data)("B", bytes(len(message.data[middle])))
    with pytest.raises(ImageError, match="cannot be decoded"):
        to_rgb(message)


@pytest.mark.parametrize("name", ["", "webp", "h264", "16UC1; compressedDepth png"])
def test_an_unknown_format_is_named(name):
    with pytest.raises(ImageError, match=f"of format '{name}' .*: the format is unknown; send jpeg or png"):
        to_rgb(change(compress(GREY, "png"), format=name))


def test_colours_of_16_bits_are_refused():
    with pytest.raises(ImageError, match="colours of uint16; send 8 bits"):
        to_rgb(compress(GREY.astype(np.uint16), "png"))


@pytest.mark.parametrize("array", [GREY[..., 0], GREY.astype(float), GREY[..., :2], GREY[:0]])
def test_only_rgb_becomes_a_message(array):
    with pytest.raises(ImageError, match="is no RGB image; give uint8"):
        from_rgb(array, Header())


# --- resize_crop ----------------------------------------------------------------------------------------------------


def test_an_image_that_fits_is_not_copied():
    image = np.zeros((8, 8, 3), np.uint8)
    assert resize_crop(image, 8) is image


@given(sizes, sizes, st.integers(1, 24))
def test_any_image_becomes_a_square(height, width, size):
    image = resize_crop(np.full((height, width, 3), 77, np.uint8), size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert (image == 77).all()


def test_the_middle_is_cropped_and_averaged():
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = 100
    assert (resize_crop(wide, 4) == 100).all()
    assert (resize_crop(wide.transpose(1, 0, 2), 2) == 100).all()
    checks = np.zeros((8, 8, 3), np.uint8)
    checks[::2] = 200
    assert (resize_crop(checks, 4) == 100).all()


# --- against cv_bridge ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bridge():
    pytest.importorskip("cv_bridge.boost.cv_bridge_boost", reason="cv_bridge is not importable")
    from cv_bridge import CvBridge

    return CvBridge()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, "a pixel", 1, 7])
@pytest.mark.parametrize("encoding", CHANNELS)
def test_results_are_those_of_cv_bridge(bridge, monkeypatch, encoding, padding, big):
    """cv_bridge itself reads the same image unpadded and little-endian: NumPy 2 broke its reading of big-endian ones,
    and it takes padding for whole pixels."""
    rng = np.random.default_rng(0)
    dtype = np.uint16 if encoding == "16UC1" else np.uint8
    array = rng.integers(0, np.iinfo(dtype).max, (9, 11, CHANNELS[encoding]), dtype, endpoint=True).squeeze()
    plain = make(encoding, array)
    message = make(encoding, array, padding if padding != "a pixel" else array[0, 0].nbytes, big)
    np.testing.assert_array_equal(to_array(message), bridge.imgmsg_to_cv2(plain))
    if encoding in COLOURS:
        theirs = bridge.imgmsg_to_cv2(plain, "rgb8")
        np.testing.assert_array_equal(to_rgb(message), theirs)
        monkeypatch.setattr(images, "_bridge", no_bridge)
        np.testing.assert_array_equal(to_rgb(message), theirs)
    if padding in (0, "a pixel") and not big:
        np.testing.assert_array_equal(to_array(message), bridge.imgmsg_to_cv2(message))


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_compressed_results_are_those_of_cv_bridge(bridge, extension):
    array = np.random.default_rng(1).integers(0, 255, (16, 20, 3), np.uint8)
    message = compress(array, extension)
    np.testing.assert_array_equal(to_rgb(message), bridge.compressed_imgmsg_to_cv2(message, "rgb8"))


def test_messages_are_those_of_cv_bridge(bridge):
    image, header = np.random.default_rng(2).integers(0, 255, (5, 7, 3), np.uint8), Header(frame_id="camera")
    assert from_rgb(image, header) == bridge.cv2_to_imgmsg(image, "rgb8", header)


def test_cv_bridge_is_used_if_installed(bridge, monkeypatch):
    class Spy:
        def imgmsg_to_cv2(self, message, encoding):
            return bridge.imgmsg_to_cv2(message, encoding)[::-1]

    monkeypatch.setattr(images, "_bridge", lambda: Spy())
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(to_rgb(from_rgb(image, Header())), image[::-1])
