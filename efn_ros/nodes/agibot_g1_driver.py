"""agibot_g1_driver: a simulated AgiBot G1 that speaks as its driver does, for dry runs and tests."""

from __future__ import annotations

from functools import partial

import rclpy
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, Int32
from std_srvs.srv import SetBool

from efn_ros.msg import RobotStatus
from efn_ros.robots.agibot_g1 import JOINTS
from efn_ros.robots.agibot_g1_status import SIDES, arm_state
from efn_ros.ros import conversions
from efn_ros.ros.images import from_rgb
from efn_ros.ros.node import EfnNode, Parameter, run
from efn_ros.ros.qos import SENSOR_DATA, STEPS
from efn_ros.worlds.agibot_g1 import G1Plant, Mode


class AgibotG1Driver(EfnNode):
    """In: arm_command, left_gripper_command, right_gripper_command, motion_stop, control_mode. Out: arm_state,
    left_gripper_state, right_gripper_state, status, camera/<name>/image.

    Services, for tests: ~/estop, ~/freeze (joint states stand still while their stamps go on), ~/collide.
    """

    PARAMETERS = (
        Parameter("rate_hz", 100.0, "Joint states a second.", 10.0, 1000.0),
        Parameter("camera_rate_hz", 30.0, "Images a second, of each camera.", 0.0, 100.0),
        Parameter("image_height", 96, "Pixels.", 16, 2048),
        Parameter("image_width", 128, "Pixels.", 16, 2048),
        Parameter("delay_s", 0.02, "From a command to the motion.", 0.0, 1.0),
        Parameter("noise_rad", 0.0005, "Standard deviation of a measured position.", 0.0, 0.1),
        Parameter("seed", 0, "Of that noise.", 0),
        Parameter("check_rates", False, "Refuse commands for their speed and acceleration; one that is lost is both."),
    )

    def setup(self) -> None:
        p = self.parameters()
        self._plant = G1Plant(
            dt_s=1 / p["rate_hz"],
            delay_s=p["delay_s"],
            noise_rad=p["noise_rad"],
            seed=p["seed"],
            check_rates=p["check_rates"],
            image_size=(p["image_height"], p["image_width"]),
        )
        self._joints = self.publisher(JointState, "arm_state", SENSOR_DATA)
        self._grippers = [self.publisher(JointState, f"{side}_gripper_state", SENSOR_DATA) for side in SIDES]
        self._status = self.publisher(RobotStatus, "status", SENSOR_DATA)
        self._images = {name: self.publisher(Image, f"camera/{name}/image", SENSOR_DATA) for name in self._plant.look()}
        self._closed = [float("nan")] * len(SIDES)
        self.listen(JointState, "arm_command", self._on_command, STEPS)
        for index, side in enumerate(SIDES):
            self.listen(JointState, f"{side}_gripper_command", partial(self._on_gripper, index), STEPS)
        self.listen(Int32, "motion_stop", lambda message: self._plant.stop_motion(message.data), STEPS)
        self.listen(Int32, "control_mode", lambda message: self._plant.set_control_mode(message.data), STEPS)
        for name, act in (
            ("estop", self._plant.press_estop),
            ("freeze", self._plant.freeze),
            ("collide", lambda on: self._plant.collide([("left hand", "table")] if on else [])),
        ):
            self.serve(SetBool, f"~/{name}", partial(self._serve_fault, act))
        for rate_hz, does in ((p["rate_hz"], self._step), (p["camera_rate_hz"], self._look)):
            if rate_hz:
                self.timer(1 / rate_hz, does, clock=Clock(clock_type=ClockType.STEADY_TIME))

    _leaving = False

    def leave(self) -> None:
        """End with a step, so that nothing is being published; asked again, at once."""
        if self._leaving or not self.active:
            rclpy.try_shutdown()
        self._leaving = True

    def teardown(self) -> None:
        if hasattr(self, "_plant"):
            self._plant.close()

    def _on_command(self, command: JointState) -> None:
        self._plant.command_arms(conversions.from_field(command.position)[: len(JOINTS)])

    def _on_gripper(self, index: int, command: JointState) -> None:
        self._closed[index] = command.position[0]
        self._plant.command_grippers(self._closed)

    def _serve_fault(self, act, request, response):
        act(request.data)
        response.success = True
        return response

    def _step(self) -> None:
        if self._leaving:
            rclpy.try_shutdown()
        if self._leaving or not self.active:
            return
        state = self._plant.step()
        header = Header(stamp=self.get_clock().now().to_msg())
        self._joints.publish(JointState(header=header, name=list(JOINTS), position=state.positions.tolist()))
        for side, out, closed in zip(SIDES, self._grippers, state.grippers_mm.tolist(), strict=True):
            out.publish(JointState(header=header, name=[f"{side}_gripper"], position=[closed]))
        codes = zip(SIDES, state.arm_states, strict=True)
        errors = [words for side, code in codes if state.mode == Mode.SERVO and (words := arm_state(side, code))]
        pairs = [" and ".join(pair) for pair in state.collision_pairs]
        self._status.publish(
            RobotStatus(stamp=header.stamp, mode=int(state.mode), estop=state.estop, errors=errors, collisions=pairs)
        )
        self.diagnostics.tick(0.0)

    def _look(self) -> None:
        if not self.active:
            return
        header = Header(stamp=self.get_clock().now().to_msg())
        for name, image in self._plant.look().items():
            self._images[name].publish(from_rgb(image, header))


def main() -> None:
    run(lambda: AgibotG1Driver("agibot_g1_driver"), leaves=True)
