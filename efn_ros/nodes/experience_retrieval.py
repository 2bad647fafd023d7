"""experience_retrieval: answers what the memory holds that is like the present step."""

from __future__ import annotations

import time

from efn_ros.assembly import make_retriever
from efn_ros.bank import BankError
from efn_ros.msg import BankChanged
from efn_ros.ros import conversions
from efn_ros.ros.node import EfnNode, Parameter, run
from efn_ros.ros.qos import LATCHED
from efn_ros.srv import RetrieveExperience
from efn_ros.types import PolicyStep


class ExperienceRetrieval(EfnNode):
    """Service: retrieve. In: bank_changed, upon which new rollouts are read before anybody asks for them."""

    PARAMETERS = (
        Parameter("bank", "bank", "Directory of the experience bank; made by bank_writer."),
        Parameter("rollouts", 50, "Rollouts kept by the instruction filter, equation (17); each an open file.", 1, 500),
        Parameter("steps", 100000, "Most steps of those rollouts; the least like are left out beyond.", 1, 10000000),
        Parameter("k", 16, "Steps recalled, equation (19).", 1, 1024),
        Parameter("context", 0, "More steps at random, which tell a learned network how the robot moves.", 0, 1024),
        Parameter(
            "codes",
            "",
            "Directory of the EFN with whose codes it is recalled what each step saw, or packaged, or "
            "packaged:libero; empty: it is not recalled.",
        ),
        Parameter("temperature", 0.02, "Temperature of the draw among them, equation (19).", 1e-6),
        Parameter("argmax", False, "Take the best instead of drawing."),
        Parameter(
            "follow",
            0.0,
            "Above 0: go on along the rollout recalled before, while its score is at most so much below the best.",
            0.0,
            1.0,
        ),
        Parameter("success_only", False, "Recall nothing of failures."),
        Parameter(
            "similarity_weight", 0.9, "lambda of equation (18): similarity against the efficiency prior.", 0.0, 1.0
        ),
        Parameter("length_decay", 1.0, "beta of equation (18).", 0.0),
        Parameter("weight_visual", 0.2, "Weight of S_embed, equation (32), in the fused similarity (38).", 0.0, 1.0),
        Parameter("weight_latent", 0.4, "Weight of S_act, equation (37).", 0.0, 1.0),
        Parameter("weight_proprio", 0.4, "Weight of the similarity of proprioception.", 0.0, 1.0),
    )

    def setup(self) -> None:
        self._retriever = make_retriever(self.parameters(), self.parameter("bank"))
        self.listen(BankChanged, "bank_changed", self._on_bank, LATCHED)
        self.serve(RetrieveExperience, "retrieve", self._retrieve)

    def _on_bank(self, bank: BankChanged) -> None:
        try:
            snapshot = self._retriever.warm()
        except (BankError, OSError) as error:
            raise ValueError(str(error)) from error
        self.diagnostics.counts["revision"] = snapshot.revision
        self.diagnostics.counts["corrupt_rollouts"] = len(self._retriever.reader.corrupt)

    def _retrieve(self, request, response):
        started = time.perf_counter()
        query = PolicyStep(
            context=conversions.context_from_msg(request.context),
            base=None,
            key=conversions.row_from_msg(request.key),
            sketch=None,
            latent=conversions.from_field(request.latent, request.latent_tokens, -1),
            instruction_embedding=conversions.from_field(request.instruction_embedding),
            proprio=conversions.from_field(request.proprio),
            policy=request.policy,
            projection=request.projection,
        )
        try:
            response = conversions.recall_to_response(self._retriever.recall(query), response)
        except (BankError, OSError, ValueError) as error:
            self.diagnostics.error(str(error))
            response.success, response.drawn, response.reason = False, -1, str(error)
        self.diagnostics.counts["corrupt_rollouts"] = len(self._retriever.reader.corrupt)
        response.search_s = time.perf_counter() - started
        self.diagnostics.tick(response.search_s)
        return response


def main() -> None:
    run(lambda: ExperienceRetrieval("experience_retrieval"))
