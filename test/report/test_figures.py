# SPDX-License-Identifier: MIT
"""The figures of the demo and of the evaluation, and where figures come from."""

import json

import cv2
import numpy as np
import pytest

from efn_ros.report.figures import (
    BASE_COLOR,
    MEMORY_COLOR,
    OTHER_COLOR,
    WORK_COLOR,
    changes_figure,
    demo_figure,
    volumes_figure,
)
from efn_ros.report.provenance import here


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def boxes(image, colour):
    """Bounding boxes (left, top, width, height, area) of one colour in the left half, from left to right."""
    left = image[:, : image.shape[1] // 2]
    mask = (np.abs(left.astype(int) - rgb(colour)).max(axis=-1) < 4).astype(np.uint8)
    return sorted(cv2.connectedComponentsWithStats(mask)[2][1:].tolist())


def bars(image, colour):
    """Heights of the upright bars, from left to right."""
    return [box[cv2.CC_STAT_HEIGHT] for box in boxes(image, colour) if box[cv2.CC_STAT_WIDTH] > 40]


def read(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_a_figure_has_a_bar_for_each_task_and_condition_as_high_as_its_share(tmp_path):
    path = tmp_path / "new" / "demo.png"
    stages = {"infer": np.full(20, 0.01), "total": np.linspace(0.01, 0.05, 20)}
    demo_figure(path, ["push", "reach"], [0.25, 0.5], [0.75, 1.0], stages)
    image = read(path)
    grey, orange = bars(image, BASE_COLOR), bars(image, MEMORY_COLOR)
    assert len(grey) == len(orange) == 2
    full = orange[1]
    assert full > 100
    assert [grey[0] / full, grey[1] / full, orange[0] / full] == pytest.approx([0.25, 0.5, 0.75], abs=0.02)


def test_a_figure_needs_no_latencies(tmp_path):
    demo_figure(tmp_path / "demo.png", ["push"], [0.0], [1.0], {"infer": np.empty(0), "total": np.empty(0)})
    assert (tmp_path / "demo.png").stat().st_size > 0


def compared(condition="memory", volume=4, group="all", of="", success=0.5, fixed=0, broke=0, steps=60.0):
    estimate = {"value": success, "low": success - 0.1, "high": success + 0.1}
    return {
        **{
            "group": group,
            "of": of,
            "condition": condition,
            "volume": volume,
            "pairs": 9,
            "base": estimate,
            "success": estimate,
        },
        **{"fixed": fixed, "broke": broke, "steps": steps, "base_steps": steps, "residual": 0.1, "trust": 0.9},
    }


def test_bars_are_as_long_as_memory_fixed_and_broke_scenes(tmp_path):
    by_task = [
        compared(group="task", of=of, fixed=fixed, broke=broke) for of, fixed, broke in (("a", 6, 3), ("b", 3, 0))
    ]
    smaller = compared(group="task", of="a", volume=1, fixed=9)
    by_shift = compared(group="shift", of="yaw", fixed=1)
    changes_figure(tmp_path / "changes.png", {"comparisons": [compared(), *by_task, smaller, by_shift]})
    image = read(tmp_path / "changes.png")
    widths = {
        colour: [box[cv2.CC_STAT_WIDTH] for box in sorted(boxes(image, colour), key=lambda b: b[cv2.CC_STAT_TOP])
                 if box[cv2.CC_STAT_HEIGHT] > 40]
        for colour in (MEMORY_COLOR, OTHER_COLOR)
    }  # fmt: skip
    assert len(widths[MEMORY_COLOR]) == 2 and len(widths[OTHER_COLOR]) == 1
    longest = widths[MEMORY_COLOR][0]
    assert longest > 100
    assert [widths[MEMORY_COLOR][1] / longest, widths[OTHER_COLOR][0] / longest] == pytest.approx([0.5, 0.5], abs=0.02)


def test_the_curve_of_success_rises_with_the_values(tmp_path):
    base = compared(condition="base", volume=0, success=0.2)
    curve = [compared(volume=volume, success=share) for volume, share in ((1, 0.3), (2, 0.5), (4, 0.9))]
    figure = tmp_path / "volumes.png"
    volumes_figure(figure, {"comparisons": [base, *reversed(curve)]})
    image = read(figure)
    mask = (np.abs(image[:, : image.shape[1] // 3].astype(int) - rgb(MEMORY_COLOR)).max(axis=-1) < 4).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    line = labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_WIDTH])
    middle = [np.flatnonzero(column).mean() for column in line.T if column.any()]
    first, second, last = middle[0], middle[len(middle) // 2], middle[-1]
    assert (first - second) / (first - last) == pytest.approx((0.5 - 0.3) / (0.9 - 0.3), abs=0.05)
    assert first - last > 100
    without = tmp_path / "without.png"
    volumes_figure(
        without, {"comparisons": [base, compared(steps=None), compared(condition="other memory", steps=None)]}
    )
    assert not np.array_equal(read(without), image)
    working = [compared(condition="memory from work with noise", volume=volume, success=0.95) for volume in (4, 2)]
    volumes_figure(figure, {"comparisons": [base, *curve, *working]})
    drawn = (np.abs(read(figure).astype(int) - rgb(WORK_COLOR)).max(axis=-1) < 4).sum()
    assert drawn > 100, "memory that was collected at work has a curve of its own"


def test_provenance_is_ready_for_json():
    found = json.loads(json.dumps(here()))
    assert found["machine"]["cores"] >= 1 and found["machine"]["cpu"] and found["commit"]
    assert found["versions"]["numpy"] == np.__version__
