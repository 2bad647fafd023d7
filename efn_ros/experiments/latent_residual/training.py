# SPDX-License-Identifier: MIT
"""Supervised training of a network that changes latent tokens.

The loss is on the action: the decoded change shall be the teacher's residual. Gradients pass through the policy's
decoder (2), whose weights do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.batching import Present
from efn_ros.experiments.latent_residual.decoding import latent_bound, latent_residual
from efn_ros.experiments.latent_residual.inference import VisualInference, VisualPolicyStep
from efn_ros.experiments.latent_residual.network import LatentEfn, LatentEfnConfig
from efn_ros.experiments.latent_residual.residual import LatentResidual
from efn_ros.runtime.factory import make_policy
from efn_ros.runtime.graph import Graph
from efn_ros.runtime.inference import Inference
from efn_ros.training.collection import Collector
from efn_ros.training.config import CollectionConfig, TrainConfig
from efn_ros.training.dataset import SampleDataset
from efn_ros.training.supervised import SupervisedTraining
from efn_ros.types import PolicyStep

LATENT_SHARE = 0.5  # of the standard deviation of each channel of Z over the samples: the largest change


class LatentCollector(Collector):
    """A collector whose samples hold V."""

    def make_inference(self, inference: Inference) -> Inference:
        """Return an inference whose steps hold V."""
        return VisualInference(inference.policy, inference.projection)

    def make_student(self) -> LearnedResidual:
        """Return the network that drives half of the rollouts."""
        policy = self._inference.policy
        return LatentResidual(self.config.checkpoint, decode=policy.decode, policy=policy.spec.fingerprint)

    def columns(self, step: PolicyStep) -> dict[str, np.ndarray]:
        """Return V of a sample, float16 (T, D)."""
        return {"visual": step.visual.astype(np.float16)} if isinstance(step, VisualPolicyStep) else {}


class LatentDataset(SampleDataset):
    """Samples whose residual is decoded from a change of their latent tokens."""

    def __init__(self, paths: Sequence[Path], config: TrainConfig) -> None:
        self._decoder = frozen_decoder(config.collection)
        super().__init__(paths, config)

    def read(self, path: Path) -> dict[str, np.ndarray]:
        """Return the arrays of one file.

        Raises:
            ValueError: The file holds no visual tokens.
        """
        part = super().read(path)
        if "visual" not in part:
            raise ValueError(f"{path} holds no visual tokens, which this training needs; name another directory")
        return part

    def to_residual(self, output: Tensor, present: Present, rows: np.ndarray) -> Tensor:
        """Return the decoded residual (B, H, A) of changes (B, L, dz)."""
        visual = np.stack([self.parts[self.part[row]]["visual"][self.row[row]] for row in rows])
        return latent_residual(self._decoder, present.latent, torch.from_numpy(visual).float(), output)


class LatentTraining(SupervisedTraining):
    """Supervised training of a `LatentEfn`."""

    collector = LatentCollector
    dataset = LatentDataset
    latent_share = LATENT_SHARE

    def network(self, samples: SampleDataset) -> LatentEfn:
        """Build an untrained network for the samples."""
        bound = latent_bound(samples.samples["latent"], self.latent_share).tolist()
        return LatentEfn(LatentEfnConfig(**self.network_settings(samples), latent_bound=bound))


def frozen_decoder(collection: CollectionConfig) -> nn.Module:
    """Return the decoder of the graph's policy, whose weights take no gradient.

    Raises:
        ValueError: The policy has no decoder.
    """
    policy = make_policy(Graph.load(collection.graph, collection.overlays).parameters("vla_policy"))
    decoder = policy.decoder()
    if decoder is None:
        raise ValueError(
            f"policy {policy.spec.name!r} of {collection.graph!r} has no decoder; name a graph whose policy has one"
        )
    return decoder
