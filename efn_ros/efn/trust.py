# SPDX-License-Identifier: MIT
"""Trust: the learned probability that the memory belongs to the present deployment. It scales the residual.

A memory of another robot, of other cameras, or from before a change proposes residuals too. But the memory also
describes the robot's motion and its images, which can be compared with those of the last decisions of the episode.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from efn_ros.efn.layers import masked_mean


class Trust(nn.Module):
    """Compares a set of motions and a set of image codes with those of the episode, in any order."""

    def __init__(self, motion_size: int, code_size: int, deployment_size: int, width: int) -> None:
        super().__init__()
        self.motion, self.vision = _tower(motion_size, width), _tower(code_size, width)
        # Estimates of the deployment, in which motions and images of different steps are comparable.
        self.motion_coordinates, self.vision_coordinates = (nn.Linear(width, deployment_size) for _ in range(2))
        self.fusion = nn.Sequential(
            nn.Linear(6 * width + 2 * deployment_size + 1, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.logit = nn.Linear(width, 1)

    def forward(
        self,
        recalled_motion: Tensor,
        recalled_codes: Tensor,
        recalled_mask: Tensor,
        recent_motion: Tensor,
        recent_mask: Tensor,
        code: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return trust and four estimates of the deployment.

        Args:
            recalled_motion: (B, k, motion_size).
            recalled_codes: (B, k, code_size).
            recalled_mask: bool (B, k).
            recent_motion: (B, n, motion_size).
            recent_mask: bool (B, n).
            code: (B, code_size), of the present images.

        Returns:
            Trust (B,) in [0, 1]; and the deployment, each (B, deployment_size), estimated from the recalled motions,
            the recent motions, the recalled codes and the present code.
        """
        motions = [
            masked_mean(self.motion(recalled_motion), recalled_mask),
            masked_mean(self.motion(recent_motion), recent_mask),
        ]
        views = [masked_mean(self.vision(recalled_codes), recalled_mask), self.vision(code)]
        estimates = [*map(self.motion_coordinates, motions), *map(self.vision_coordinates, views)]
        known = recent_mask.float().mean(dim=1, keepdim=True)
        pairs = ((motions[0], motions[1]), (views[0], views[1]), estimates[:2], estimates[2:])
        differences = [(a - b).abs() for a, b in pairs]
        logit = self.logit(self.fusion(torch.cat([*motions, *views, *differences, known], dim=-1)))
        return torch.sigmoid(logit.squeeze(-1)), estimates


def _tower(size: int, width: int) -> nn.Sequential:
    layers = [nn.Linear(size, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.GELU())
