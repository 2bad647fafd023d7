# SPDX-License-Identifier: MIT
"""A shortlist of recalled steps, ranked again by image similarity under the instruction.

Modules `encoder` and `detector` alone import neural networks; everything else is NumPy.

Source: appendix D, equations (33) to (36), (39) and D.11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from efn_ros.bank.store.snapshot import SnapshotSource
from efn_ros.runtime.experiments import OPTIONS

if TYPE_CHECKING:
    from efn_ros.experiments.image_reranking.retriever import ImageRerankingRetriever


def make_retriever(p: Mapping[str, Any], source: SnapshotSource) -> ImageRerankingRetriever:
    """Build the retriever of experience_retrieval from its parameters `experiment_options.*`.

    Raises:
        ValueError: There is neither encoder nor detector, or an option is out of range.
    """
    from efn_ros.experiments.image_reranking.image_features import ImageFeatureExtractor
    from efn_ros.experiments.image_reranking.reranker import RerankConfig, Reranker
    from efn_ros.experiments.image_reranking.retriever import ImageRerankingRetriever
    from efn_ros.runtime.factory import make_retrieval_config

    o = {name.removeprefix(OPTIONS): value for name, value in p.items() if name.startswith(OPTIONS)}
    options, networks = {"device": o["device"], "local_files_only": False}, {}
    if o["encoder"]:
        from efn_ros.experiments.image_reranking.encoder import ContrastiveEncoder

        networks["encoder"] = ContrastiveEncoder.from_pretrained(o["encoder"], **options)
    if o["detector"]:
        from efn_ros.experiments.image_reranking.detector import OpenVocabularyDetector

        threshold = o["threshold"]
        networks["detector"] = OpenVocabularyDetector.from_pretrained(o["detector"], threshold=threshold, **options)
    opening = o["opening"] if o["opening"] >= 0 else None
    extractor = ImageFeatureExtractor(
        o["camera"], gripper=o["gripper"], opening=opening, opening_range=o["opening_range"], **networks
    )
    reranker = Reranker(extractor, RerankConfig(**{f.name: o[f.name] for f in fields(RerankConfig)}))
    return ImageRerankingRetriever(source, make_retrieval_config(p), reranker)
