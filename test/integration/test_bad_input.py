# SPDX-License-Identifier: MIT
"""What camera_ingest makes of good and of bad cameras and joint states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from efn_ros.msg import EpisodeState, ObservationStamped
from harness import RunningGraph
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header

from efn_ros.ros.fields import from_time
from efn_ros.ros.images import from_rgb, to_rgb
from efn_ros.ros.qos import LATCHED, LOSSLESS_SENSOR_DATA, STEPS

pytestmark = pytest.mark.integration

ERRORS = "camera_ingest: errors"
JOINTS = ("hand_x", "hand_y", "hand_z", "gripper")
DIAGNOSTICS = {"**": {"diagnostics_period_s": 0.1}}


@dataclass
class Robot:
    """Cameras and joint states of a robot, played by the test, in an episode that it has begun."""

    graph: RunningGraph
    kind: type
    observations: list[ObservationStamped]
    cameras: dict[str, Any]
    joints: Any
    clock_ns: int = field(default=0)

    def tick(self) -> Header:
        """A header one tenth of a second later."""
        self.clock_ns += 100_000_000
        return Header(stamp=Time(sec=self.clock_ns // 10**9, nanosec=self.clock_ns % 10**9))

    def image(self, header: Header, size: tuple[int, int] = (120, 160)) -> Any:
        """An image whose brightness is its tick."""
        pixels = np.full((*size, 3), (from_time(header.stamp) // 100_000_000) % 200, np.uint8)
        if self.kind is Image:
            return from_rgb(pixels, header)
        return CompressedImage(header=header, format="png", data=cv2.imencode(".png", pixels)[1].tobytes())

    def state(self, header: Header) -> JointState:
        return JointState(header=header, name=list(JOINTS), position=[0.1, 0.2, 0.3, 1.0])

    def send(self, *, left: Any = None, right: Any = None, state: JointState | None = None) -> Header:
        """Send one image of each camera and a state, good ones but for what is given."""
        header = self.tick()
        self.cameras["left"].publish(left or self.image(header))
        self.cameras["right"].publish(right or self.image(header))
        self.joints.publish(state or self.state(header))
        return header

    def observation_of(self, header: Header) -> ObservationStamped | None:
        stamps = {from_time(o.context.header.stamp): o for o in self.observations}
        return stamps.get(from_time(header.stamp))

    def observe(self) -> ObservationStamped:
        """Send good images and a good state, and wait for their observation."""
        header = self.send()
        self.graph.spin_until(
            lambda: self.observation_of(header) is not None, "good input has not become an observation", 30.0
        )
        return self.observation_of(header)

    def error(self, part: str) -> str:
        """Wait until diagnostics show an error that holds `part`, and return it."""

        def shown() -> bool:
            status = self.graph.client.statuses.get(ERRORS)
            return status is not None and status.level == DiagnosticStatus.ERROR and part in status.message

        self.graph.spin_until(shown, f"no error with {part!r}", 30.0)
        return self.graph.client.statuses[ERRORS].message


@pytest.fixture
def robot(start) -> Callable[..., Robot]:
    def robot(kind: type = Image, **parameters: Any) -> Robot:
        graph = start(DIAGNOSTICS, {"camera_ingest": parameters}, only=["camera_ingest"])
        node = graph.client.node
        suffix = "" if kind is Image else "/compressed"
        cameras = {
            side: node.create_publisher(kind, f"camera/{side}/image{suffix}", LOSSLESS_SENSOR_DATA)
            for side in ("left", "right")
        }
        joints = node.create_publisher(JointState, "joint_states", LOSSLESS_SENSOR_DATA)
        episodes = node.create_publisher(EpisodeState, "episode", LATCHED)
        robot = Robot(graph, kind, graph.collect(ObservationStamped, "observation", STEPS), cameras, joints)
        outputs = [*cameras.values(), joints, episodes]
        graph.spin_until(lambda: all(out.get_subscription_count() for out in outputs), "nobody listens", 60.0)
        episodes.publish(
            EpisodeState(episode_id="e1", phase=EpisodeState.RUNNING, task="reach", instruction="reach", seed=5)
        )
        # The episode and the images travel on topics of their own: send until the first is observed.
        graph.spin_until(lambda: bool(robot.send() and robot.observations), "no observation", 60.0)
        graph.spin_for(0.5)
        return robot

    return robot


def broken(image: Image, **fields: Any) -> Image:
    for name, value in fields.items():
        setattr(image, name, value)
    return image


def test_bad_input_is_named_and_good_frames_before_and_after_become_observations(robot):
    robot = robot()

    def image() -> Image:
        return robot.image(robot.tick())

    def state(**fields: Any) -> JointState:
        return broken(robot.state(robot.tick()), **fields)

    bad = {
        "encoding 'yuv9' is unknown": {"left": broken(image(), encoding="yuv9")},
        "0 x 120 (step 480, 57600 bytes) has no pixels": {"right": broken(image(), width=0)},
        "truncated, it needs 57600 bytes": {"left": broken(image(), data=image().data[:1000])},
        "a row needs 480 bytes": {"left": broken(image(), step=479)},
        "joint_states position 'hand_y' is nan": {"state": state(position=[0.1, math.nan, 0.3, 1.0])},
        "joint_states position 'gripper' is inf": {"state": state(position=[0.1, 0.2, 0.3, math.inf])},
        "joint_states position 1 is nan": {"state": state(name=[], position=[0.1, math.nan, 0.3, 1.0])},
        "joint_states holds no positions": {"state": state(position=[])},
    }
    number = robot.observe().context.step
    for words, what in bad.items():
        header = robot.send(**what)
        assert words in robot.error(words)
        observation = robot.observe()
        assert robot.observation_of(header) is None, words
        number += 1
        assert observation.context.step == number, words
        assert (observation.context.episode_id, observation.context.seed) == ("e1", 5)
        assert [*observation.proprio] == pytest.approx([0.1, 0.2, 0.3, 1.0])
    assert dict((v.key, v.value) for v in robot.graph.client.statuses[ERRORS].values)["errors"] == str(len(bad))


def test_a_missing_joint_is_named(robot):
    robot = robot(joints=["gripper", "hand_x"])
    assert [*robot.observe().proprio] == pytest.approx([1.0, 0.1])
    header = robot.tick()
    robot.send(state=JointState(header=header, name=["hand_x"], position=[0.1]))
    robot.error("joint_states lacks gripper; it has hand_x")
    robot.send(state=JointState(header=header, name=list(JOINTS), position=[0.1]))
    robot.error("joint_states has 4 names and 1 positions")
    assert [*robot.observe().proprio] == pytest.approx([1.0, 0.1])


def test_cameras_whose_stamps_differ_by_more_than_slop_do_not_combine(robot):
    robot = robot(slop_s=0.02)
    before = robot.observe()
    early, late = robot.tick(), robot.tick()
    robot.cameras["left"].publish(robot.image(early))
    robot.cameras["right"].publish(robot.image(late))
    robot.joints.publish(robot.state(late))
    after = robot.observe()
    assert robot.observation_of(early) is None and robot.observation_of(late) is None
    assert after.context.step == before.context.step + 1
    for observation in (before, after):
        ticks = {int(to_rgb(image)[0, 0, 0]) for image in observation.images}
        assert ticks == {(from_time(observation.context.header.stamp) // 100_000_000) % 200}


def test_images_are_cropped_to_the_middle_and_scaled_to_what_the_policy_asks_for(robot):
    robot = robot(image_size=64)
    observation = robot.observe()
    assert observation.cameras == ["left", "right"]
    assert [(i.height, i.width, i.encoding, i.step) for i in observation.images] == [(64, 64, "rgb8", 192)] * 2


def test_compressed_images_work_and_broken_ones_are_named(robot):
    robot = robot(CompressedImage, compressed=True)
    observation = robot.observe()
    assert {tuple(to_rgb(image)[0, 0]) for image in observation.images} == {
        ((from_time(observation.context.header.stamp) // 100_000_000) % 200,) * 3
    }
    whole = robot.image(robot.tick())
    robot.send(left=broken(whole, data=whole.data[: len(whole.data) // 2]))
    robot.error("is no whole png file")
    assert robot.observe().context.step == observation.context.step + 1
