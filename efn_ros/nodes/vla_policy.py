"""vla_policy: runs the frozen policy on every observation."""

from __future__ import annotations

import numpy as np

from efn_ros.msg import Observation, PolicyStep
from efn_ros.ros import conversions
from efn_ros.ros.node import EfnNode, Parameter, run
from efn_ros.ros.qos import KEPT_STEPS, STEPS
from efn_ros.runtime.factory import make_inference
from efn_ros.srv import DecodeLatent
from efn_ros.types import Observation as ObservationType
from efn_ros.types import StepContext


class VlaPolicy(EfnNode):
    """In: observation. Out: policy_step. Service: ~/decode, a residual on the latent action tokens of this step."""

    PARAMETERS = (
        Parameter("policy", "pocket_vla", "Backbone: pocket_vla, untrained, constant or sway."),
        Parameter(
            "checkpoint", "", "Directory of its checkpoint, or packaged:libero; empty: the package's for Meta-World."
        ),
        Parameter("threads", 1, "Threads of inference.", 1, 256),
        Parameter("cameras", ["left", "right"], "Cameras of a policy without a checkpoint."),
        Parameter("horizon", 4, "Chunk length of a policy without a checkpoint, control steps.", 1, 1000),
        Parameter("proprio_size", 4, "Entries of proprioception of a policy without a checkpoint.", 1, 256),
        Parameter("action_size", 4, "Entries of an action of a policy without a checkpoint.", 1, 256),
        Parameter("image_size", 96, "Image side of a policy without a checkpoint, pixels.", 16, 2048),
        Parameter("sway.posture", [0.0], "Action that a sway policy sways about."),
        Parameter("sway.amplitude", 0.1, "By so much, in units of the action.", 0.0, 3.2),
        Parameter("sway.rate_hz", 0.2, "So often a second.", 0.001, 10.0),
        Parameter("sway.rows_hz", 30.0, "Rows of its chunk a second.", 1.0, 1000.0),
        Parameter("tokens_width", 128, "Width of the policy's visual tokens.", 1, 65536),
        Parameter("descriptor_size", 128, "Width of keys and sketches, equation (30).", 8, 4096),
        Parameter("projection_seed", 0, "Seed of the projection; a bank remembers which it was made with.", 0),
        Parameter(
            "publish_visual", False, "Send the visual tokens along; an EFN that changes latent tokens needs them."
        ),
    )

    def setup(self) -> None:
        self._inference = make_inference(self.parameters())
        self._warm_up()
        self._context: StepContext | None = None
        self._out = self.publisher(PolicyStep, "policy_step", KEPT_STEPS)
        self.listen(Observation, "observation", self._on_observation, STEPS)
        self.serve(DecodeLatent, "~/decode", self._decode)
        self.get_logger().info(f"policy {self._inference.policy.spec.fingerprint}")

    def _warm_up(self) -> None:
        """One inference before the first command, which else would be late."""
        spec = self._inference.policy.spec
        black = np.zeros((spec.image_size, spec.image_size, 3), np.uint8)
        context = StepContext("", 0, 0, "", "warm up")
        self._inference(
            ObservationType(context, dict.fromkeys(spec.cameras, black), np.zeros(spec.proprio_size, np.float32))
        )

    def _on_observation(self, message: Observation) -> None:
        received_ns = self.now_ns()
        observation = conversions.observation_from_msg(message)
        step = self._inference(observation)
        self._context = observation.context
        created_ns = self.now_ns()
        self._out.publish(conversions.policy_step_to_msg(step, received_ns, created_ns, message.created))
        self.diagnostics.tick((created_ns - observation.context.stamp_ns) * 1e-9)

    def _decode(self, request, response):
        present = self._context
        if present is None or (present.episode_id, present.step) != (request.episode_id, request.step):
            response.message = f"step {request.step} of episode {request.episode_id!r} is not the present one"
            return response
        output = self._inference.output
        delta = conversions.from_field(request.delta)
        if delta.size != output.latent.size:
            response.message = f"delta has {delta.size} entries; the latent tokens have {output.latent.size}"
            return response
        action = self._inference.policy.decode(output.latent + delta.reshape(output.latent.shape), output.visual)
        response.success, response.action = True, conversions.chunk_to_msg(action)
        return response


def main() -> None:
    run(lambda: VlaPolicy("vla_policy"))
