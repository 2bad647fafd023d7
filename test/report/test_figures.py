"""The figure of the demo, and where figures come from."""

import json

import cv2
import numpy as np
import pytest

from efn_ros.report.figures import BASE, MEMORY, demo_figure
from efn_ros.report.provenance import here


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def bars(image, colour):
    """Bounding boxes' heights of the bars of one colour in the left half, from left to right."""
    left = image[:, : image.shape[1] // 2]
    mask = (np.abs(left.astype(int) - rgb(colour)).max(axis=-1) < 4).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    found = [box for box in stats[1:] if box[cv2.CC_STAT_WIDTH] > 40]
    return [int(box[cv2.CC_STAT_HEIGHT]) for box in sorted(found, key=lambda box: box[cv2.CC_STAT_LEFT])]


def test_a_figure_has_a_bar_for_each_task_and_way_as_high_as_its_share(tmp_path):
    path = tmp_path / "new" / "demo.png"
    stages = {"infer": np.full(20, 0.01), "total": np.linspace(0.01, 0.05, 20)}
    demo_figure(path, ["push", "reach"], [0.25, 0.5], [0.75, 1.0], stages)
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    grey, orange = bars(image, BASE), bars(image, MEMORY)
    assert len(grey) == len(orange) == 2
    full = orange[1]
    assert full > 100
    assert [grey[0] / full, grey[1] / full, orange[0] / full] == pytest.approx([0.25, 0.5, 0.75], abs=0.02)


def test_a_figure_needs_no_latencies(tmp_path):
    demo_figure(tmp_path / "demo.png", ["push"], [0.0], [1.0], {"infer": np.empty(0), "total": np.empty(0)})
    assert (tmp_path / "demo.png").stat().st_size > 0


def test_where_a_figure_comes_from_is_said_in_words_that_a_file_can_hold():
    found = json.loads(json.dumps(here()))
    assert found["machine"]["cores"] >= 1 and found["machine"]["cpu"] and found["commit"]
    assert found["versions"]["numpy"] == np.__version__
