"""Trust: does memory fit what this episode has shown so far? The residual is scaled by it.

A memory of another robot, of other cameras, or of the time before something changed, proposes a residual as readily as
the right one. But it tells, too, how the robot moves and what it sees, and that can be held against the last decisions
of the episode. Trust is learned end to end: the factor that brings the residual closest to the teacher's, whether the
memory is right or another deployment's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Trust(nn.Module):
    """Reads sets of motions (B, k, motion) and codes of what was seen; their order does not matter.

    `tells`: what the motions recalled and recent, and the codes recalled and seen now, say about the deployment, each
    (B, identified); learning to tell it is what makes them comparable.
    """

    def __init__(self, motion: int, codes: int, identified: int, width: int) -> None:
        super().__init__()
        self.motion, self.sight = _tower(motion, width), _tower(codes, width)
        self.moves, self.sees = nn.Linear(width, identified), nn.Linear(width, identified)
        self.verdict = nn.Sequential(
            nn.Linear(6 * width + 2 * identified + 1, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.logit = nn.Linear(width, 1)

    def forward(
        self, recalled: Tensor, codes: Tensor, there: Tensor, recent: Tensor, happened: Tensor, code: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """recalled (B, k, motion), codes (B, k, C), there (B, k); recent (B, n, motion), happened (B, n); code (B, C):
        of what is seen now. Returns trust (B,) in [0, 1], and `tells`."""
        moved, moves = _mean(self.motion(recalled), there), _mean(self.motion(recent), happened)
        saw, sees = _mean(self.sight(codes), there), self.sight(code)
        tells = [self.moves(moved), self.moves(moves), self.sees(saw), self.sees(sees)]
        known = happened.float().mean(dim=1, keepdim=True)
        apart = [(moved - moves).abs(), (saw - sees).abs(), (tells[0] - tells[1]).abs(), (tells[2] - tells[3]).abs()]
        logit = self.logit(self.verdict(torch.cat([moved, moves, saw, sees, *apart, known], dim=-1)))
        return torch.sigmoid(logit.squeeze(-1)), tells


def _tower(size: int, width: int) -> nn.Sequential:
    layers = [nn.Linear(size, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)]
    return nn.Sequential(*layers, nn.GELU())


def _mean(tokens: Tensor, there: Tensor) -> Tensor:
    """Over those that are there; zero where none is."""
    counted = there.float()[..., None]
    return (tokens * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
