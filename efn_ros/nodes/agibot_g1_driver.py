# SPDX-License-Identifier: MIT
"""agibot_g1_driver: simulate an AgiBot G1 with the topics of its driver, for dry runs and tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, Int32
from std_srvs.srv import SetBool

from efn_ros.msg import RobotStatus
from efn_ros.robots.agibot_g1 import JOINTS
from efn_ros.robots.agibot_g1_status import SIDES, arm_fault
from efn_ros.ros.images import from_rgb
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import SENSOR_DATA, STEPS
from efn_ros.worlds.agibot_g1 import G1Plant, Mode


class AgibotG1Driver(EfnNode):
    """Simulate an AgiBot G1 with the topics of its driver.

    Subscribes: `arm_command`, `left_gripper_command`, `right_gripper_command`, `motion_stop`, `control_mode`.
    Publishes: `arm_state`, `left_gripper_state`, `right_gripper_state`, `status`, `camera/<name>/image`.
    Services: `~/estop`, `~/freeze` (equal joint states with new stamps), `~/collide`; for tests.
    """

    PARAMETERS = (
        Parameter("rate_hz", 100.0, "Joint states a second.", 10.0, 1000.0),
        Parameter("camera_rate_hz", 30.0, "Images a second of each camera; 0: none.", 0.0, 100.0),
        Parameter("image_height", 96, "Height of the images, pixels.", 16, 2048),
        Parameter("image_width", 128, "Width of the images, pixels.", 16, 2048),
        Parameter("delay_s", 0.02, "Delay from a command to the motion, s.", 0.0, 1.0),
        Parameter("noise_rad", 0.0005, "Standard deviation of a measured position, rad.", 0.0, 0.1),
        Parameter("seed", 0, "Seed of that noise.", 0),
        Parameter(
            "check_rates", False, "Refuse commands beyond speed or acceleration limits, as after a lost command."
        ),
    )

    _ending = False  # whether the process ends with the next step

    def setup(self) -> None:
        """Create the simulated robot and its topics."""
        p = self.parameters()
        self._plant = G1Plant(
            dt_s=1 / p["rate_hz"],
            delay_s=p["delay_s"],
            noise_rad=p["noise_rad"],
            seed=p["seed"],
            check_rates=p["check_rates"],
            image_size=(p["image_height"], p["image_width"]),
        )
        self._joints_out = self.publisher(JointState, "arm_state", SENSOR_DATA)
        self._gripper_outs = [self.publisher(JointState, f"{side}_gripper_state", SENSOR_DATA) for side in SIDES]
        self._status_out = self.publisher(RobotStatus, "status", SENSOR_DATA)
        cameras = self._plant.images()
        self._image_outs = {name: self.publisher(Image, f"camera/{name}/image", SENSOR_DATA) for name in cameras}
        self._closed = [float("nan")] * len(SIDES)
        self.subscribe(JointState, "arm_command", self._on_command, STEPS)
        for index, side in enumerate(SIDES):
            self.subscribe(JointState, f"{side}_gripper_command", partial(self._on_gripper, index), STEPS)
        self.subscribe(Int32, "motion_stop", lambda message: self._plant.stop_motion(message.data), STEPS)
        self.subscribe(Int32, "control_mode", lambda message: self._plant.set_control_mode(message.data), STEPS)
        for name, set_fault in (
            ("estop", self._plant.press_estop),
            ("freeze", self._plant.freeze),
            ("collide", lambda on: self._plant.collide([("left hand", "table")] if on else [])),
        ):
            self.serve_text(SetBool, f"~/{name}", partial(self._on_fault, set_fault))
        for rate_hz, callback in ((p["rate_hz"], self._step), (p["camera_rate_hz"], self._publish_images)):
            if rate_hz:
                self.timer(1 / rate_hz, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def request_shutdown(self) -> None:
        """End in a step, so that no publication is interrupted; a second request ends at once."""
        if self._ending or not self.active:
            super().request_shutdown()
        self._ending = True

    def teardown(self) -> None:
        """Close the simulator."""
        if hasattr(self, "_plant"):
            self._plant.close()

    def _on_command(self, command: JointState) -> None:
        self._plant.command_arms(command.position[: len(JOINTS)])

    def _on_gripper(self, index: int, command: JointState) -> None:
        self._closed[index] = command.position[0]
        self._plant.command_grippers(self._closed)

    def _on_fault(self, set_fault: Callable[[bool], None], request: SetBool.Request) -> str:
        set_fault(request.data)
        return ""

    def _step(self) -> None:
        if self._ending:
            super().request_shutdown()
        if self._ending or not self.active:
            return
        state = self._plant.step()
        header = Header(stamp=self.get_clock().now().to_msg())
        self._joints_out.publish(JointState(header=header, name=list(JOINTS), position=state.positions.tolist()))
        for side, out, closed in zip(SIDES, self._gripper_outs, state.grippers_mm.tolist(), strict=True):
            out.publish(JointState(header=header, name=[f"{side}_gripper"], position=[closed]))
        codes = zip(SIDES, state.arm_states, strict=True)
        errors = [fault for side, code in codes if state.mode == Mode.SERVO and (fault := arm_fault(side, code))]
        pairs = [" and ".join(pair) for pair in state.collision_pairs]
        self._status_out.publish(
            RobotStatus(stamp=header.stamp, mode=int(state.mode), estop=state.estop, errors=errors, collisions=pairs)
        )
        self.diagnostics.tick(0.0)

    def _publish_images(self) -> None:
        if not self.active:
            return
        header = Header(stamp=self.get_clock().now().to_msg())
        for name, image in self._plant.images().items():
            self._image_outs[name].publish(from_rgb(image, header))


def main() -> None:
    """Run the node."""
    run(lambda: AgibotG1Driver("agibot_g1_driver"), graceful=True)
