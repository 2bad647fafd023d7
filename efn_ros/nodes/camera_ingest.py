# SPDX-License-Identifier: MIT
"""camera_ingest: synchronise camera images and joint states to observations of the policy's image size."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
from sensor_msgs.msg import CompressedImage, Image, JointState

from efn_ros.features.images import resize_crop
from efn_ros.msg import CorrectedAction, EpisodeState, ObservationStamped
from efn_ros.ros import conversions
from efn_ros.ros.fields import from_time, joint_positions
from efn_ros.ros.images import to_rgb
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import LATCHED, LATCHED_STEPS, LOSSLESS_SENSOR_DATA, SENSOR_DATA
from efn_ros.ros.synchroniser import Synchroniser
from efn_ros.types import Observation, StepContext

STATE = "state"
JOIN_S = 5.0  # longest wait of a node that starts in mid-episode for the last action of the episode


class CameraIngest(EfnNode):
    """Synchronise camera images and joint states to observations, cropped and resized for the policy.

    Subscribes: `camera/<name>/image` (or `camera/<name>/image/compressed`), `joint_states`, `episode`;
    `corrected_action`, with which a node that was restarted in mid-episode continues to count decisions.
    Publishes: `observation`.
    """

    PARAMETERS = (
        Parameter("cameras", ["left", "right"], "Names of the cameras, in the policy's order."),
        Parameter("image_size", 96, "Side of the policy's square images, pixels.", 8, 2048),
        Parameter("compressed", False, "Subscribe to CompressedImage instead of Image."),
        Parameter("joints", [""], "Joints whose positions are proprioception, in order; empty: all, as received."),
        Parameter("slop_s", 0.02, "Largest difference of stamps within one observation, s.", 0.0, 10.0),
        Parameter("lossless", False, "Reliable transport of images, for a world in lockstep, which waits for each."),
    )

    def setup(self) -> None:
        """Create the synchroniser and the topics."""
        self._cameras = self.parameter("cameras")
        self._size = self.parameter("image_size")
        self._joints = [joint for joint in self.parameter("joints") if joint]
        self._synchroniser = Synchroniser([*self._cameras, STATE], round(self.parameter("slop_s") * 1e9))
        self._episode: EpisodeState | None = None
        self._step, self._last_stamp_ns = 0, 0
        self._last_action: CorrectedAction | None = None
        self._joining_until_s = 0.0
        self._out = self.publisher(ObservationStamped, "observation", LATCHED_STEPS)
        self.subscribe(EpisodeState, "episode", self._on_episode, LATCHED)
        self.subscribe(CorrectedAction, "corrected_action", self._on_action, LATCHED)
        qos = LOSSLESS_SENSOR_DATA if self.parameter("lossless") else SENSOR_DATA
        compressed = self.parameter("compressed")
        for camera in self._cameras:
            topic = f"camera/{camera}/image" + ("/compressed" if compressed else "")
            self.subscribe(CompressedImage if compressed else Image, topic, partial(self._on_image, camera), qos)
        self.subscribe(JointState, "joint_states", self._on_state, qos)

    def start(self) -> None:
        """Note the time, to recognise an episode that runs already."""
        self._started_ns = self.now_ns()

    def _on_episode(self, episode: EpisodeState) -> None:
        if episode.phase == EpisodeState.RUNNING and (
            self._episode is None or self._episode.episode_id != episode.episode_id
        ):
            self._step, self._last_stamp_ns = 0, from_time(episode.stamp)
            self._synchroniser.clear()
            joined = self._last_stamp_ns < self._started_ns
            self._joining_until_s = time.monotonic() + JOIN_S if joined else 0.0
        self._episode = episode
        self._catch_up()

    def _on_action(self, action: CorrectedAction) -> None:
        self._last_action = action
        self._catch_up()

    def _catch_up(self) -> None:
        """Continue to count after the last decision with a corrected action."""
        if self._episode is None or self._last_action is None:
            return
        context = self._last_action.context
        if context.episode_id == self._episode.episode_id and context.step >= self._step:
            self._step, self._last_stamp_ns = context.step + 1, from_time(context.header.stamp)
            self._joining_until_s = 0.0

    def _on_image(self, camera: str, image: Image | CompressedImage) -> None:
        pixels = resize_crop(to_rgb(image), self._size)
        self._add(camera, from_time(image.header.stamp), pixels)

    def _on_state(self, state: JointState) -> None:
        _, positions = joint_positions(state, self._joints)
        self._add(STATE, from_time(state.header.stamp), positions)

    def _add(self, source: str, stamp_ns: int, item: np.ndarray) -> None:
        chosen = self._synchroniser.add(source, stamp_ns, item)
        self.diagnostics.counts["dropped"] = self._synchroniser.dropped
        if chosen is None or self._episode is None or self._episode.phase != EpisodeState.RUNNING:
            return
        if time.monotonic() < self._joining_until_s:
            self.diagnostics.counts["while_joining"] += 1
            return
        stamp_ns = chosen[self._cameras[0]][0]
        if stamp_ns < self._last_stamp_ns:
            self.diagnostics.counts["stale"] += 1
            return
        # An equal stamp is an image that a world in lockstep publishes again: the same decision, not a new one.
        repeated = stamp_ns == self._last_stamp_ns and self._step > 0
        self._step += not repeated
        self._last_stamp_ns = stamp_ns
        context = StepContext(
            episode_id=self._episode.episode_id,
            step=self._step - 1,
            stamp_ns=stamp_ns,
            task=self._episode.task,
            instruction=self._episode.instruction,
            seed=self._episode.seed,
            correct=self._episode.correct,
            record=self._episode.record,
        )
        images = {camera: chosen[camera][1] for camera in self._cameras}
        now_ns = self.now_ns()
        self._out.publish(conversions.observation_to_msg(Observation(context, images, chosen[STATE][1]), now_ns))
        self.diagnostics.tick((now_ns - stamp_ns) * 1e-9)


def main() -> None:
    """Run the node."""
    run(lambda: CameraIngest("camera_ingest"))
