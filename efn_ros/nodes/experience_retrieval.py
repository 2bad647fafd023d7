# SPDX-License-Identifier: MIT
"""experience_retrieval: recall the stored steps that are most similar to the present one."""

from __future__ import annotations

import time
from pathlib import Path

from efn_ros.bank import BankError, BankReader
from efn_ros.msg import BankChanged
from efn_ros.retrieval import Retriever
from efn_ros.ros import conversions
from efn_ros.ros.node import EfnNode, Parameter
from efn_ros.ros.process import run
from efn_ros.ros.qos import LATCHED
from efn_ros.runtime.experiments import EXPERIMENT, experiments, has_executable
from efn_ros.runtime.factory import make_retriever
from efn_ros.srv import RetrieveExperience
from efn_ros.types import StepContext


class ExperienceRetrieval(EfnNode):
    """Recall the stored steps that are most similar to the present one.

    Subscribes: `bank_changed`, after which new rollouts are read, before a decision needs them.
    Services: `retrieve`.
    """

    PARAMETERS = (
        Parameter("bank", "bank", "Directory of the experience bank, which bank_writer creates."),
        Parameter(
            "search",
            "instruction",
            "Preselection of rollouts: by instruction, once an episode; or everything: by features, at every decision.",
        ),
        Parameter("hits", 256, "Most similar steps whose rollouts are compared; for search everything.", 1, 10000),
        Parameter("max_rollouts", 50, "Most rollouts compared, n of equation (17); each is an open file.", 1, 500),
        Parameter("max_steps", 100000, "Most steps compared; the least similar rollouts are left out.", 1, 10000000),
        Parameter("k", 16, "Number of recalled steps, equation (19).", 1, 1024),
        Parameter("random_steps", 0, "Number of further steps, drawn at random; for a learned network.", 0, 1024),
        Parameter(
            "codes",
            "",
            "EFN whose codes of each step are recalled: directory, packaged or packaged:libero; empty: none.",
        ),
        Parameter("temperature", 0.02, "Temperature of the selection, equation (19).", 1e-6),
        Parameter("argmax", False, "Select the best step instead of sampling."),
        Parameter(
            "reference_margin",
            0.0,
            "Largest gap to the best score at which recall continues the rollout selected before; 0: none.",
            0.0,
            1.0,
        ),
        Parameter(
            "success_model_rollouts", 1000, "Newest rollouts that fit the success probability; 0: none.", 0, 100000
        ),
        Parameter("success_only", False, "Recall only rollouts that succeeded."),
        Parameter("similarity_weight", 0.9, "lambda of equation (18): similarity against efficiency.", 0.0, 1.0),
        Parameter("length_decay", 1.0, "beta of equation (18).", 0.0),
        Parameter("weight_visual", 0.2, "Weight of S_embed, equation (32), in the fused similarity (38).", 0.0, 1.0),
        Parameter("weight_latent", 0.4, "Weight of S_act, equation (37).", 0.0, 1.0),
        Parameter("weight_proprio", 0.4, "Weight of the similarity of proprioception.", 0.0, 1.0),
        Parameter(EXPERIMENT, "", "Experiment that replaces the retriever; empty: none."),
    )

    def setup(self) -> None:
        """Open the bank for reading."""
        self._reader = BankReader(Path(self.parameter("bank")).expanduser(), skip_corrupt=True)
        self.retriever = self.make_retriever(self._reader)
        self.subscribe(BankChanged, "bank_changed", self._on_bank, LATCHED)
        self.serve(RetrieveExperience, "retrieve", self._retrieve)

    def make_retriever(self, reader: BankReader) -> Retriever:
        """Build the retriever of this node's parameters.

        Raises:
            ValueError: The experiment has an executable of its own, with topics that this one does not subscribe to.
        """
        name = self.parameter(EXPERIMENT)
        if name in experiments() and has_executable(name):
            raise ValueError(f"experiment {name!r} has an executable of its own: in the graph, set executable: {name}")
        return make_retriever(self.parameters(), reader)

    def before_recall(self, context: StepContext) -> None:
        """Prepare the recall for a decision; a hook for subclasses."""

    def _on_bank(self, bank: BankChanged) -> None:
        try:
            snapshot = self.retriever.prefetch()
        except (BankError, OSError) as error:
            raise ValueError(str(error)) from error
        self.diagnostics.counts["revision"] = snapshot.revision
        self.diagnostics.counts["success_model_episodes"] = self.retriever.outcomes.model.episodes
        self.diagnostics.counts["corrupt_rollouts"] = len(self._reader.corrupt)

    def _retrieve(
        self, request: RetrieveExperience.Request, response: RetrieveExperience.Response
    ) -> RetrieveExperience.Response:
        started = time.perf_counter()
        try:
            query = conversions.query_from_request(request)
            self.before_recall(query.context)
            response = conversions.recall_to_response(self.retriever.recall(query), response)
        except (BankError, OSError, ValueError) as error:
            self.diagnostics.error(str(error))
            response.success, response.selected, response.reason = False, -1, str(error)
        self.diagnostics.counts["corrupt_rollouts"] = len(self._reader.corrupt)
        response.search_s = time.perf_counter() - started
        self.diagnostics.tick(response.search_s)
        return response


def main() -> None:
    """Run the node."""
    run(lambda: ExperienceRetrieval("experience_retrieval"))
