# SPDX-License-Identifier: MIT
"""Frames and films: the present image, the recalled image, and the length of the bars."""

import cv2
import imageio.v2 as imageio
import numpy as np
import pytest

from efn_ros.report import video
from efn_ros.types import Correction, Mode, Observation, StepContext

LABELS = ("x", "y", "z", "gripper")
SIZE = (496, 600, 3)
BLUE, GREEN = (10, 20, 200), (10, 200, 20)


def picture(colour, side=24):
    return np.full((side, side, 3), colour, np.uint8)


def frame(recalled=None, base=(0, 0, 0, 0), corrected=(0, 0, 0, 0), caption="reach  step 3  corrected", labels=LABELS):
    return video.frame(picture(BLUE), recalled, np.float32(base), np.float32(corrected), labels, caption)


def pixels(image, colour):
    return int((image == colour).all(axis=-1).sum())


def test_a_frame_is_an_rgb_image_with_even_sides():
    made = frame(picture(GREEN, 96))
    assert made.shape == SIZE and made.dtype == np.uint8
    assert SIZE[0] % 2 == SIZE[1] % 2 == 0


def test_it_shows_the_present_image_and_beside_it_the_recalled_one():
    made = frame(picture(GREEN, 96))
    square = video.SIDE**2
    assert 0.95 * square < pixels(made, BLUE) < square
    assert 0.95 * square < pixels(made, GREEN) < square
    left, right = made[:, : SIZE[1] // 2], made[:, SIZE[1] // 2 :]
    assert not pixels(left, GREEN) and not pixels(right, BLUE)


def test_without_a_recall_the_right_side_is_paper():
    assert pixels(frame(), GREEN) == 0
    assert pixels(frame()[:, SIZE[1] // 2 :], video.PAPER) > 0.8 * video.SIDE**2


@pytest.mark.parametrize("name, colour", [("base", video.BASE), ("corrected", video.CORRECTED)])
def test_bars_are_as_long_as_the_action_is_large(name, colour):
    def length(value):
        empty, drawn = frame(**{name: (0, 0, 0, 0)}), frame(**{name: (0, value, 0, 0)})
        return pixels(drawn, colour) - pixels(empty, colour)

    full = length(1)
    assert full > 100
    assert length(-1) == pytest.approx(full, rel=0.02)
    assert length(0.5) == pytest.approx(full / 2, rel=0.02)
    assert length(0) == 0
    assert length(7) == full, "a value out of range is clipped"


def test_bars_point_to_the_side_of_their_sign():
    columns = np.argwhere((frame(corrected=(0, 0, -1, 0)) == video.CORRECTED).all(axis=-1))[:, 1]
    other = np.argwhere((frame(corrected=(0, 0, 1, 0)) == video.CORRECTED).all(axis=-1))[:, 1]
    assert columns.mean() < other.mean()


def test_the_caption_is_written():
    assert not np.array_equal(frame(caption="one"), frame(caption="two"))


@pytest.mark.parametrize("count", [5, 12])
def test_a_film_has_as_many_frames_as_it_was_given(tmp_path, count):
    path = tmp_path / "new" / "film.mp4"
    frames = [frame(picture(GREEN), corrected=(i / count, 0, 0, 0)) for i in range(count)]
    video.write(path, frames, rate_hz=8.0)
    read = imageio.mimread(path, memtest=False)
    assert len(read) == count and read[0].shape == SIZE
    assert np.abs(read[0].astype(int) - frames[0]).mean() < 8
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened() and reader.get(cv2.CAP_PROP_FPS) == pytest.approx(8.0)
    reader.release()


def episode(count, mode=Mode.CORRECTED):
    base = np.zeros((4, 4), np.float32)
    for step in range(count):
        context = StepContext("e0", step, 100 * step, "reach", "reach the goal")
        observation = Observation(context, {"left": picture(BLUE), "right": picture((0, 0, 0))}, base[0])
        rollout = ("r0", 7) if mode == Mode.CORRECTED else ("", -1)
        yield observation, Correction(context, base, base, base + 0.5, 0.9, mode, "", *rollout)


def test_a_film_of_an_episode_shows_every_decision_with_its_recalled_image():
    observations, corrections = zip(*episode(3), strict=True)
    requested = []

    def image_of(rollout, step):
        requested.append((rollout, step))
        return picture(GREEN)

    frames = video.film(observations, corrections, image_of, LABELS)
    assert len(frames) == 3 and requested == [("r0", 7)] * 3
    for made in frames:
        assert pixels(made, BLUE) and pixels(made, GREEN) and pixels(made, video.CORRECTED)


def test_decisions_without_a_correction_are_left_out_and_no_image_is_requested_without_a_recall():
    observations, corrections = zip(*episode(4, Mode.BASE), strict=True)
    frames = video.film(observations, corrections[1:3], lambda *_: pytest.fail("nothing was recalled"), LABELS)
    assert len(frames) == 2 and not any(pixels(made, GREEN) for made in frames)


def test_the_image_of_a_removed_step_is_left_blank():
    observations, corrections = zip(*episode(1), strict=True)
    (made,) = video.film(observations, corrections, lambda *_: None, LABELS)
    assert pixels(made, GREEN) == 0
