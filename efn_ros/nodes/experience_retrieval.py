"""experience_retrieval: answers what the memory holds that is like the present step."""

from __future__ import annotations

import time

from efn_ros.bank import BankError
from efn_ros.msg import BankChanged, Observation
from efn_ros.ros import conversions
from efn_ros.ros.node import EfnNode, Parameter, run
from efn_ros.ros.qos import LATCHED, STEPS
from efn_ros.runtime.factory import make_retriever
from efn_ros.srv import RetrieveExperience
from efn_ros.types import PolicyStep, StepContext

POLL_S = 0.0005


class ExperienceRetrieval(EfnNode):
    """Service: retrieve. In: bank_changed, upon which new rollouts are read before anybody asks for them; observation,
    where images rank what is recalled."""

    PARAMETERS = (
        Parameter("bank", "bank", "Directory of the experience bank; made by bank_writer."),
        Parameter(
            "search",
            "instruction",
            "How rollouts are chosen: instruction (by what was told, once an episode) or everything (by what is seen, "
            "at every decision).",
        ),
        Parameter("hits", 256, "Likest steps of the bank whose rollouts are compared; of search everything.", 1, 10000),
        Parameter("rollouts", 50, "Most rollouts that are compared, equation (17); each an open file.", 1, 500),
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
        Parameter(
            "outcomes",
            1000,
            "Newest rollouts from whose ends the chance is learned that following memory succeeds; 0: it is not told.",
            0,
            100000,
        ),
        Parameter("success_only", False, "Recall nothing of failures."),
        Parameter(
            "similarity_weight", 0.9, "lambda of equation (18): similarity against the efficiency prior.", 0.0, 1.0
        ),
        Parameter("length_decay", 1.0, "beta of equation (18).", 0.0),
        Parameter("weight_visual", 0.2, "Weight of S_embed, equation (32), in the fused similarity (38).", 0.0, 1.0),
        Parameter("weight_latent", 0.4, "Weight of S_act, equation (37).", 0.0, 1.0),
        Parameter("weight_proprio", 0.4, "Weight of the similarity of proprioception.", 0.0, 1.0),
        Parameter("rerank.encoder", "", "Contrastive image-text model, directory or name on the hub; empty: none."),
        Parameter("rerank.detector", "", "Open-vocabulary detector; without it and encoder nothing is reranked."),
        Parameter("rerank.device", "cpu", "Of both."),
        Parameter("rerank.camera", "", "Camera that is looked through."),
        Parameter(
            "rerank.wait_s", 0.05, "A question waits so long for its image, then images rank nothing.", 0.0, 10.0
        ),
        Parameter("rerank.shortlist", 32, "Candidates that are looked at; at least k.", 1, 1024),
        Parameter("rerank.appearance", 0.4, "alpha_c of equation (36).", 0.0, 1.0),
        Parameter("rerank.text", 0.3, "alpha_t.", 0.0, 1.0),
        Parameter("rerank.relation", 0.3, "alpha_r.", 0.0, 1.0),
        Parameter("rerank.fusion", "additive", "additive, equation (38), or gated, (39)."),
        Parameter("rerank.weight", 0.5, "w_i of (38), where all other cues together weigh 1.", 1e-6, 100.0),
        Parameter("rerank.gate", 0.5, "alpha of (39).", 0.0, 1.0),
        Parameter("rerank.phase", 0.1, "beta of (39).", 0.0, 10.0),
        Parameter("rerank.threshold", 0.1, "Score above which a detection counts.", 0.0, 1.0),
        Parameter("rerank.gripper", "robot gripper", "Words by which the detector finds the gripper."),
        Parameter("rerank.opening", -1, "Entry of proprioception that is the gripper's opening; -1: none.", -1, 1024),
        Parameter("rerank.opening_range", [0.0, 1.0], "Its values shut and open."),
    )

    MAY_HEAR = ("observation",)

    def setup(self) -> None:
        self._retriever = make_retriever(self.parameters(), self.parameter("bank"))
        if self._retriever.looks:
            self._seeing = self.listen(Observation, "observation", self._on_observation, STEPS)
        self.listen(BankChanged, "bank_changed", self._on_bank, LATCHED)
        self.serve(RetrieveExperience, "retrieve", self._retrieve)

    def _on_bank(self, bank: BankChanged) -> None:
        try:
            snapshot = self._retriever.warm()
        except (BankError, OSError) as error:
            raise ValueError(str(error)) from error
        self.diagnostics.counts["revision"] = snapshot.revision
        self.diagnostics.counts["outcomes"] = self._retriever.outcomes.chance.episodes
        self.diagnostics.counts["corrupt_rollouts"] = len(self._retriever.reader.corrupt)

    def _on_observation(self, message: Observation) -> None:
        self._retriever.look(conversions.observation_from_msg(message))

    def _wait_for_image(self, context: StepContext) -> None:
        """The question may overtake the image, which is larger."""
        until_s = time.monotonic() + self.parameter("rerank.wait_s")
        while self._retriever.waits_for(context) and time.monotonic() < until_s:
            with self._seeing.handle:
                taken = self._seeing.handle.take_message(Observation, False)
            if taken is None:
                time.sleep(POLL_S)
            else:
                self._on_observation(taken[0])

    def _retrieve(self, request, response):
        started = time.perf_counter()
        try:
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
            self._wait_for_image(query.context)
            response = conversions.recall_to_response(self._retriever.recall(query), response)
        except (BankError, OSError, ValueError) as error:
            self.diagnostics.error(str(error))
            response.success, response.drawn, response.reason = False, -1, str(error)
        self.diagnostics.counts["corrupt_rollouts"] = len(self._retriever.reader.corrupt)
        self.diagnostics.counts["unseen"] = self._retriever.unseen
        response.search_s = time.perf_counter() - started
        self.diagnostics.tick(response.search_s)
        return response


def main() -> None:
    run(lambda: ExperienceRetrieval("experience_retrieval"))
