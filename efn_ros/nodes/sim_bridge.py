# SPDX-License-Identifier: MIT
"""sim_bridge: run a simulated world, such as Meta-World or LIBERO, with the topics of a robot."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from efn_ros.msg import CorrectedAction, EpisodeState, WorldState
from efn_ros.ros import conversions
from efn_ros.ros.fields import from_time
from efn_ros.ros.images import from_rgb
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import EVENTS, LATCHED, LOSSLESS_SENSOR_DATA, SENSOR_DATA, STEPS
from efn_ros.runtime.factory import make_simulation
from efn_ros.worlds.deployment import KINDS
from efn_ros.worlds.stepper import Stepper

LOCKSTEP, REALTIME = "lockstep", "realtime"


class SimBridge(EfnNode):
    """Run a simulated world with the topics of a robot.

    Subscribes: `episode`, `corrected_action`.
    Publishes: `camera/<name>/image`, `joint_states`, `world_state`.

    In lockstep the world waits for the action of each image, and publishes the image again if none arrives. In realtime
    it steps at its rate with the newest chunk, at the row of the control step; after the last row it holds.
    """

    PARAMETERS = (
        Parameter("world", "metaworld", "Simulator: metaworld, libero, or that of a plugin."),
        Parameter("libero_assets", "", "LIBERO's bddl_files, init_files and assets; empty: $EFN_LIBERO_DIR."),
        Parameter("pacing", LOCKSTEP, "Pacing of the world: lockstep or realtime."),
        Parameter("image_size", 96, "Side of the camera images, pixels.", 16, 1024),
        Parameter("execute_steps", 4, "Control steps from one image to the next.", 1, 1000),
        Parameter("rate_hz", 0.0, "Control rate in realtime, Hz; 0: the world's own.", 0.0, 1000.0),
        Parameter("retry_s", 2.0, "Lockstep: time after which an image without an action is repeated, s.", 0.01, 60.0),
        Parameter("deployment.seed", 0, "Seed of the hidden shifts of this deployment.", 0),
        *(Parameter(f"deployment.{k}", 0.0, f"Strength of the shift in {k}; 0: none.", 0.0, 1.0) for k in KINDS),
    )

    def setup(self) -> None:
        """Create the world and its topics."""
        self._world = make_simulation(self.parameters())
        self._pacing = self.parameter("pacing")
        if self._pacing not in (LOCKSTEP, REALTIME):
            raise ValueError(f"pacing is {self._pacing!r}; it must be {LOCKSTEP!r} or {REALTIME!r}")
        self._execute_steps = self.parameter("execute_steps")
        self._stepper: Stepper | None = None
        self._episode_id, self._decisions, self._held = "", 0, 0
        self._image_steps: dict[int, int] = {}  # stamp of an image -> control step at which it was taken
        self._chunk: tuple[int, np.ndarray] | None = None  # control step it starts at, and its rows
        self._last_messages: tuple = ()
        qos = LOSSLESS_SENSOR_DATA if self._pacing == LOCKSTEP else SENSOR_DATA
        spec = self._world.spec
        self._images = {name: self.publisher(Image, f"camera/{name}/image", qos) for name in spec.cameras}
        self._joints = self.publisher(JointState, "joint_states", qos)
        self._state = self.publisher(WorldState, "world_state", EVENTS)
        self.subscribe(EpisodeState, "episode", self._on_episode, LATCHED)
        self.subscribe(CorrectedAction, "corrected_action", self._on_action, STEPS)
        if self._pacing == LOCKSTEP:
            self._retry = self.timer(self.parameter("retry_s"), self._publish_again)
            self._retry.cancel()
        else:
            self.timer(1.0 / (self.parameter("rate_hz") or spec.rate_hz), self._control_step)

    def teardown(self) -> None:
        """Close the world."""
        if hasattr(self, "_world"):
            self._world.close()

    def _on_episode(self, episode: EpisodeState) -> None:
        if episode.phase != EpisodeState.RUNNING:
            self._stepper = None
        elif episode.episode_id != self._episode_id or self._stepper is None:
            self._stepper = Stepper(self._world, episode.task, episode.seed, execute_steps=self._execute_steps)
            self._episode_id, self._decisions, self._held = episode.episode_id, 0, 0
            self._image_steps, self._chunk = {}, None
            self._observe(self._stepper)

    def _on_action(self, action: CorrectedAction) -> None:
        taken_at = self._image_steps.pop(from_time(action.context.header.stamp), None)
        stepper = self._stepper
        if stepper is None or action.context.episode_id != self._episode_id or taken_at is None:
            self.diagnostics.counts["unexpected_actions"] += 1
            return
        self._decisions += 1
        chunk = conversions.chunk_from_msg(action.corrected)
        if self._pacing == REALTIME:
            self._chunk = (taken_at, chunk)
            return
        self._retry.cancel()
        stepper.execute(chunk)
        self._report(stepper)
        if not stepper.done:
            self._observe(stepper)

    def _control_step(self) -> None:
        """Execute one control step in realtime."""
        stepper = self._stepper
        if stepper is None or stepper.done:
            return
        begins, chunk = self._chunk or (0, np.empty((0, len(self._world.spec.low)), np.float32))
        row = stepper.control_step - begins
        held = row >= len(chunk)
        self._held += held
        action = np.zeros_like(self._world.spec.low)
        if not held:
            action = chunk[row]
        elif len(chunk):
            action[-1] = chunk[-1, -1]  # the gripper keeps its last command
        stepper.step(action)
        if stepper.done or stepper.control_step % self._execute_steps == 0:
            self._report(stepper)
            if not stepper.done:
                self._observe(stepper)

    def _observe(self, stepper: Stepper) -> None:
        images, proprio = stepper.world.observe()
        header = Header(stamp=self.get_clock().now().to_msg())
        self._image_steps[from_time(header.stamp)] = stepper.control_step
        state = JointState(header=header, name=list(self._world.spec.proprio_names), position=proprio.tolist())
        self._last_messages = (state, {name: from_rgb(image, header) for name, image in images.items()})
        self._publish()

    def _publish_again(self) -> None:
        if self._stepper is not None and not self._stepper.done and self._last_messages:
            self.diagnostics.counts["published_again"] += 1
            self._publish()

    def _publish(self) -> None:
        state, images = self._last_messages
        self._joints.publish(state)
        for name, image in images.items():
            self._images[name].publish(image)
        self.diagnostics.tick(0.0)
        if self._pacing == LOCKSTEP:
            self._retry.reset()

    def _report(self, stepper: Stepper) -> None:
        self._state.publish(
            WorldState(
                stamp=self.get_clock().now().to_msg(),
                episode_id=self._episode_id,
                control_step=stepper.control_step,
                success=stepper.success,
                truncated=stepper.truncated,
                held_steps=self._held,
                decisions=self._decisions,
            )
        )


def main() -> None:
    """Run the node."""
    run(lambda: SimBridge("sim_bridge"))
