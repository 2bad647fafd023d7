# SPDX-License-Identifier: MIT
"""vla_policy: run the frozen policy on every observation."""

from __future__ import annotations

import numpy as np

from efn_ros.msg import ObservationStamped, PolicyStepStamped
from efn_ros.ros import conversions
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import LATCHED_STEPS, STEPS
from efn_ros.runtime.experiments import EXPERIMENT
from efn_ros.runtime.factory import make_inference
from efn_ros.types import Observation, StepContext


class VlaPolicy(EfnNode):
    """Run the frozen policy on every observation.

    Subscribes: `observation`.
    Publishes: `policy_step`.
    """

    PARAMETERS = (
        Parameter("policy", "pocket_vla", "Backbone: pocket_vla, untrained, constant, sine, or that of a plugin."),
        Parameter("checkpoint", "", "Directory of it, or packaged:libero; empty: its default, that of Meta-World."),
        Parameter("threads", 1, "Threads of inference.", 1, 256),
        Parameter("cameras", ["left", "right"], "Cameras of a policy without a checkpoint."),
        Parameter("horizon", 4, "Chunk length of a policy without a checkpoint, control steps.", 1, 1000),
        Parameter("proprio_size", 4, "Entries of proprioception of a policy without a checkpoint.", 1, 256),
        Parameter("action_size", 4, "Entries of an action of a policy without a checkpoint.", 1, 256),
        Parameter("image_size", 96, "Image side of a policy without a checkpoint, pixels.", 16, 2048),
        Parameter("sine.posture", [0.0], "Centre of the motion of a sine policy, an action."),
        Parameter("sine.amplitude", 0.1, "Amplitude of that motion, in units of the action.", 0.0, 3.2),
        Parameter("sine.frequency_hz", 0.2, "Frequency of that motion, Hz.", 0.001, 10.0),
        Parameter("sine.action_rate_hz", 30.0, "Rows of a chunk of a sine policy a second.", 1.0, 1000.0),
        Parameter("tokens_width", 128, "Width of the policy's visual tokens.", 1, 65536),
        Parameter("descriptor_size", 128, "Width of keys and sketches, equation (30).", 8, 4096),
        Parameter("projection_seed", 0, "Seed of the projection; that of the bank.", 0),
        Parameter(EXPERIMENT, "", "Experiment that replaces the inference; empty: none."),
    )

    def setup(self) -> None:
        """Load the policy and run it once."""
        self._inference = make_inference(self.parameters())
        self._run_once()
        self._out = self.publisher(PolicyStepStamped, "policy_step", LATCHED_STEPS)
        self.subscribe(ObservationStamped, "observation", self._on_observation, STEPS)
        self.get_logger().info(f"policy {self._inference.policy.spec.fingerprint}")

    def _run_once(self) -> None:
        """Run the first inference, which allocates memory and is slow, before the robot needs one."""
        spec = self._inference.policy.spec
        black = np.zeros((spec.image_size, spec.image_size, 3), np.uint8)
        proprio = np.zeros(spec.proprio_size, np.float32)
        self._inference(Observation(StepContext("", 0, 0, "", "wait"), dict.fromkeys(spec.cameras, black), proprio))

    def _on_observation(self, message: ObservationStamped) -> None:
        received_ns = self.now_ns()
        observation = conversions.observation_from_msg(message)
        step = self._inference(observation)
        created_ns = self.now_ns()
        self._out.publish(conversions.policy_step_to_msg(step, received_ns, created_ns, message.created))
        self.diagnostics.tick((created_ns - observation.context.stamp_ns) * 1e-9)


def main() -> None:
    """Run the node."""
    run(lambda: VlaPolicy("vla_policy"))
