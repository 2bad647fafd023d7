# SPDX-License-Identifier: MIT
"""image_reranking: experience_retrieval that ranks by images too."""

from __future__ import annotations

import time

from efn_ros.bank import BankReader
from efn_ros.experiments.image_reranking import make_retriever
from efn_ros.experiments.image_reranking.retriever import ImageRerankingRetriever
from efn_ros.msg import ObservationStamped
from efn_ros.nodes.experience_retrieval import ExperienceRetrieval
from efn_ros.ros import conversions
from efn_ros.ros.node import Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import STEPS
from efn_ros.types import StepContext

POLL_S = 0.0005


class ImageRerankingRetrieval(ExperienceRetrieval):
    """As experience_retrieval. In, too: observation."""

    PARAMETERS = (
        *ExperienceRetrieval.PARAMETERS,
        Parameter("experiment_options.encoder", "", "Contrastive image-text model, directory or name; empty: none."),
        Parameter("experiment_options.detector", "", "Open-vocabulary detector, directory or name; empty: none."),
        Parameter("experiment_options.device", "cpu", "Device of both."),
        Parameter("experiment_options.camera", "", "Camera whose images are compared."),
        Parameter("experiment_options.wait_s", 0.05, "Longest wait of a request for its image.", 0.0, 10.0),
        Parameter("experiment_options.shortlist", 32, "Candidates that are compared; at least k.", 1, 1024),
        Parameter("experiment_options.appearance", 0.4, "alpha_c of equation (36).", 0.0, 1.0),
        Parameter("experiment_options.text", 0.3, "alpha_t of equation (36).", 0.0, 1.0),
        Parameter("experiment_options.relation", 0.3, "alpha_r of equation (36).", 0.0, 1.0),
        Parameter("experiment_options.fusion", "additive", "additive, equation (38), or gated, (39)."),
        Parameter("experiment_options.weight", 0.5, "w_i of (38), where all other cues weigh 1.", 1e-6, 100.0),
        Parameter("experiment_options.gate", 0.5, "alpha of (39).", 0.0, 1.0),
        Parameter("experiment_options.phase", 0.1, "beta of (39).", 0.0, 10.0),
        Parameter("experiment_options.threshold", 0.1, "Score above which a detection counts.", 0.0, 1.0),
        Parameter("experiment_options.gripper", "robot gripper", "Words by which the detector finds the gripper."),
        Parameter("experiment_options.opening", -1, "Entry of proprioception that is the opening; -1: none.", -1, 1024),
        Parameter("experiment_options.opening_range", [0.0, 1.0], "Its values shut and open."),
    )

    retriever: ImageRerankingRetriever

    def make_retriever(self, reader: BankReader) -> ImageRerankingRetriever:
        """Build the retriever, and subscribe to the images that it compares."""
        self._images = self.subscribe(ObservationStamped, "observation", self._on_observation, STEPS)
        return make_retriever(self.parameters(), reader)

    def before_recall(self, context: StepContext) -> None:
        """Wait for the image of a decision, since the smaller request may arrive before it."""
        until_s = time.monotonic() + self.parameter("experiment_options.wait_s")
        while self.retriever.needs_image(context) and time.monotonic() < until_s:
            with self._images.handle:
                taken = self._images.handle.take_message(ObservationStamped, False)
            if taken is None:
                time.sleep(POLL_S)
            else:
                self._on_observation(taken[0])
        self.diagnostics.counts["without_image"] = self.retriever.without_image

    def _on_observation(self, message: ObservationStamped) -> None:
        self.retriever.observe(conversions.observation_from_msg(message))


def main() -> None:
    """Run the node."""
    run(lambda: ImageRerankingRetrieval("experience_retrieval"))
