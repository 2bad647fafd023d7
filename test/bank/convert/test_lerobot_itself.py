# SPDX-License-Identifier: MIT
"""Exchange of datasets with LeRobot itself, in both directions.

LeRobot pins another version of torch, so it needs its own environment: EFN_LEROBOT_PYTHON names the interpreter of
one (LeRobot 0.4). Without it these tests are skipped.
"""

import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest
from sample_rollouts import PROJECTION, at_5_hz, make_rollout

from efn_ros.bank import BankReader, BankWriter
from efn_ros.bank.convert.lerobot import export, read

LEROBOT = os.environ.get("EFN_LEROBOT_PYTHON")
pytestmark = pytest.mark.skipif(not LEROBOT, reason="EFN_LEROBOT_PYTHON names no interpreter that has lerobot")

LOAD = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
whole = LeRobotDataset("local/exported", root=sys.argv[1], delta_timestamps={"action": [0, 0.2]})
frames = [whole[i] for i in range(len(whole))]
print(json.dumps({
    "episodes": whole.num_episodes, "fps": whole.fps, "cameras": whole.meta.camera_keys,
    "tasks": [frame["task"] for frame in frames],
    "state": [frame["observation.state"].tolist() for frame in frames],
    "action": [frame["action"].tolist() for frame in frames],
    "left": [(255 * frame["observation.images.left"]).round().int().tolist() for frame in frames],
}))
"""
RECORD = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
image = {"dtype": "image", "shape": (8, 8, 3), "names": ["height", "width", "channels"]}
vector = {"dtype": "float32", "shape": (3,), "names": None}
features = {"observation.images.left": image, "observation.state": vector, "action": vector}
made = LeRobotDataset.create("local/made", fps=5, root=sys.argv[1], features=features, use_videos=False)
for episode in range(2):
    for t in range(4):
        image, number = np.full((8, 8, 3), 10 * t, np.uint8), np.full(3, episode + t, np.float32)
        frame = {"observation.images.left": image, "observation.state": number, "action": -number}
        made.add_frame({**frame, "task": f"task {episode}"})
    made.save_episode()
made.finalize()
"""


def lerobot(program, directory):
    alone = {"PATH": os.environ["PATH"], "HOME": str(directory.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([LEROBOT, "-c", program, str(directory)], env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_lerobot_loads_an_exported_dataset(tmp_path):
    with BankWriter(tmp_path / "bank", projection=PROJECTION) as writer:
        writer.append(at_5_hz(make_rollout("a", 3)))
        writer.append(dataclasses.replace(at_5_hz(make_rollout("b", 4)), instruction="push the puck"))
    reader = BankReader(tmp_path / "bank")
    rollouts = reader.snapshot().rollouts
    export(rollouts, tmp_path / "dataset")
    loaded = json.loads(lerobot(LOAD, tmp_path / "dataset")[-1])
    assert (loaded["episodes"], loaded["fps"]) == (2, 5)
    assert loaded["cameras"] == ["observation.images.left", "observation.images.right"]
    assert loaded["tasks"] == ["reach the goal"] * 3 + ["push the puck"] * 4
    np.testing.assert_array_equal(loaded["state"], np.concatenate([r.arrays.proprio for r in rollouts]))
    action = np.concatenate([r.arrays.executed[:, 0] for r in rollouts])
    np.testing.assert_array_equal(np.array(loaded["action"])[:, 0], action)
    np.testing.assert_array_equal(np.array(loaded["action"])[:2, 1], action[1:3])
    images = [reader.image(r.record.id, t, "left") for r in rollouts for t in range(len(r.arrays.steps))]
    difference = np.array(loaded["left"]).transpose(0, 2, 3, 1) - np.array(images, int)
    assert np.abs(difference).max() <= 3, "two JPEG decoders"


def test_a_dataset_written_by_lerobot_is_read(tmp_path):
    lerobot(RECORD, tmp_path / "made")
    first, second = read(tmp_path / "made")
    assert (first.task, second.task, first.fps, first.success) == ("task 0", "task 1", 5.0, None)
    np.testing.assert_array_equal(second.state, np.arange(1, 5)[:, None].repeat(3, 1))
    np.testing.assert_array_equal(second.action, -second.state)
    assert [int(image[0, 0, 0]) for image in second.images["left"]] == [0, 10, 20, 30]
