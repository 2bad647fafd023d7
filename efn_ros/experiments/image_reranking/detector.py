# SPDX-License-Identifier: MIT
"""Boxes of objects that are named in words, from an open-vocabulary detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForZeroShotObjectDetection

from efn_ros.experiments.image_reranking.checkpoints import Checkpoint, check_image
from efn_ros.experiments.image_reranking.similarity import Box

ONE_LOGIT_A_QUERY = ("owlvit", "owlv2")
ONE_LOGIT_A_TOKEN = ("grounding-dino", "mm-grounding-dino")  # of all queries, written one after the other
ALL = -1.0  # a threshold below every score
SEPARATORS = (".", "?")  # between the queries of Grounding DINO


class OpenVocabularyDetector:
    """A frozen OWL-ViT, OWLv2 or Grounding DINO.

    Attributes:
        identity: Changes whenever weights or threshold do.
    """

    def __init__(self, checkpoint: Checkpoint, *, threshold: float) -> None:
        self._model, self._processor, self._threshold = checkpoint.model, checkpoint.processor, threshold
        self._by_token = checkpoint.model.config.model_type in ONE_LOGIT_A_TOKEN
        self.identity = f"{checkpoint.identity}-{threshold:g}"

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, threshold: float = 0.1, device: str = "cpu", local_files_only: bool = True
    ) -> OpenVocabularyDetector:
        """Load a model; other arguments and errors are those of `Checkpoint.load`.

        Args:
            name: Of the checkpoint.
            threshold: Score, in [0, 1], above which a box counts; 0.1 is usual for OWL-ViT, 0.25 for Grounding DINO.
            device: Of the network.
            local_files_only: As of `Checkpoint.load`.

        Raises:
            ValueError: The threshold is out of range.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be in [0, 1]")
        checkpoint = Checkpoint.load(
            AutoModelForZeroShotObjectDetection,
            name,
            known=ONE_LOGIT_A_QUERY + ONE_LOGIT_A_TOKEN,
            device=device,
            local_files_only=local_files_only,
        )
        return cls(checkpoint, threshold=threshold)

    @torch.inference_mode()
    def boxes(self, image: np.ndarray, queries: Sequence[str]) -> list[Box | None]:
        """Return the best box for each query; None where none scores above the threshold.

        The score of a box for a query is the largest of the query's logits. A box counts only for the query with its
        highest score, so that an object outside the image does not get the box of another.

        Args:
            image: uint8 (height, width, 3) RGB.
            queries: Words for one object each.

        Raises:
            ValueError: The image has another dtype or shape; a query is empty or holds "." or "?", which separate
                queries.
        """
        check_image(image)
        for query in queries:
            if not query.strip() or any(mark in query for mark in SEPARATORS):
                raise ValueError(f"query {query!r} must name an object, without {' or '.join(SEPARATORS)}")
        inputs = self._processor(images=image, text=[list(queries)], truncation=True, return_tensors="pt")
        outputs = self._model(**inputs.to(self._model.device))
        height, width = image.shape[:2]
        corners = self._processor.image_processor.post_process_object_detection(
            outputs, threshold=ALL, target_sizes=[(height, width)]
        )[0]["boxes"].cpu()
        corners = corners.clamp(min=torch.zeros(4), max=torch.tensor([width, height, width, height]))
        visible = (corners[:, 2:] > corners[:, :2]).all(dim=1)  # OWLv2 may detect objects in its padding
        logits = outputs.logits[0].cpu().masked_fill(~visible[:, None], -torch.inf)
        query_of = self._query_of(inputs["input_ids"][0].cpu(), len(queries), logits.shape[1])
        scores = torch.stack([logits[:, query_of == query].amax(dim=1) for query in range(len(queries))], dim=1)
        scores = scores.masked_fill(scores < scores.amax(dim=1, keepdim=True), -torch.inf)
        return [self._best(corners, score) for score in scores.T]

    def _best(self, corners: Tensor, logits: Tensor) -> Box | None:
        """Of boxes (B, 4) with logits (B,)."""
        best = logits.argmax()
        return Box(*corners[best].tolist()) if logits[best].sigmoid() > self._threshold else None

    def _query_of(self, tokens: Tensor, queries: int, logits: int) -> Tensor:
        """Query of each logit, int64 (logits,), -1 for none; tokens: of the first text, (n,)."""
        if not self._by_token:
            return torch.arange(queries)
        dots = tokens == self._processor.tokenizer.convert_tokens_to_ids(".")
        query_of = dots.cumsum(dim=0).masked_fill(dots, -1)
        query_of[[0, -1]] = -1  # [CLS] and [SEP]
        return F.pad(query_of, (0, logits - len(query_of)), value=-1)
