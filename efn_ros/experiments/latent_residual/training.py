"""Supervised training in latent space.

The network learns which change of the latent tokens gives the teacher's residual: the loss is on the action, and
gradients flow through the policy's decoder, (2), whose weights stay as they are.
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
from efn_ros.training.collection import CollectionConfig, Collector
from efn_ros.training.config import TrainConfig
from efn_ros.training.dataset import SampleDataset
from efn_ros.training.supervised import SupervisedTraining
from efn_ros.types import PolicyStep

LATENT_SHARE = 0.5  # of how far each channel of Z spreads over the samples


class LatentCollector(Collector):
    """A collector whose samples keep V."""

    def make_inference(self, inference: Inference) -> Inference:
        """Return an inference whose steps keep V."""
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
            ValueError: It holds no visual tokens.
        """
        part = super().read(path)
        if "visual" not in part:
            raise ValueError(f"{path} holds no visual tokens, which latent space needs; name another directory")
        return part

    def to_residual(self, output: Tensor, present: Present, rows: np.ndarray) -> Tensor:
        """Return the decoded residual (B, H, A)."""
        visual = np.stack([self.parts[self.part[row]]["visual"][self.row[row]] for row in rows])
        return latent_residual(self._decoder, present.latent, torch.from_numpy(visual).float(), output)


class LatentTraining(SupervisedTraining):
    """Supervised training of a `LatentEfn`."""

    collector = LatentCollector
    dataset = LatentDataset
    latent_share = LATENT_SHARE

    def network(self, samples: SampleDataset) -> LatentEfn:
        """Build an untrained network that fits the samples."""
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
        raise ValueError(f"policy {policy.spec.name!r} of {collection.graph!r} has no decoder to learn through")
    return decoder
