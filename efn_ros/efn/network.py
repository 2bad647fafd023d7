"""The Experience Feedback Network (EFN): the present step and what was recalled go in, a residual comes out.

The actor of appendix B at any size: the present step attends to the recalled ones through cross-attention layers, and a
head gives mean and spread of a residual over the whole chunk, or of a change of the latent action tokens, squashed by
tanh and bounded for each dimension. Recalled steps are a set: their order and number do not matter, and without any the
residual is exactly zero. Critics read the same, and the residual with the present step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from efn_ros.bank.codes import Codes
from efn_ros.efn import WEIGHTS
from efn_ros.efn.trust import Trust
from efn_ros.types import Experiences, Outcome, Past, PolicyStep

SIZES = {
    "small": {"width": 128, "heads": 4, "layers": 2, "feedforward": 256},
    "paper": {"width": 1024, "heads": 16, "layers": 2, "feedforward": 4096},  # appendix B
}
# Of a recalled step, what tells how the robot moves.
MOTION = ("executed", "proprio", "proprio_next", "executed_before", "proprio_before")
ACTION, LATENT = SPACES = ("action", "latent")  # what the head speaks of
LOG_STD_RANGE = (-5.0, 2.0)
SMALLEST_BOUND = 1e-6  # of what critics divide by: a dimension that may not be corrected tells them nothing
CRITICS, CONFIG = "critics.safetensors", "config.json"


@dataclass(frozen=True)
class EfnConfig:
    """Sizes that the frozen policy sets, and the network's own.

    horizon, action_size: H, A of a chunk. latent: (L, dz) of Z. sketch: (T, d) of the visual tokens' sketch, of which
    `channels` a token are read. bound: (A,) largest residual, in the action's units. space: "action", the head says a
    residual on the action, or "latent", a change of Z by at most latent_bound, (dz,), in the units of Z, of which the
    frozen decoder makes a residual (`latent_residual`). proprio_mean, proprio_std, motion_std: (P,) of proprioception
    and of its change over one decision, where it learned. identified: how many coordinates of the deployment it tells.
    codes: how many numbers it keeps of what a recalled step saw, 0 for none. recent: so many of the episode's last
    decisions tell whether memory fits (`Trust`), 0 for blind trust. remembers: False makes it blind to what was
    recalled, for comparison. Raises ValueError, naming the field, for what does not fit.
    """

    horizon: int
    action_size: int
    latent: tuple[int, int]
    sketch: tuple[int, int]
    bound: tuple[float, ...]
    proprio_mean: tuple[float, ...]
    proprio_std: tuple[float, ...]
    motion_std: tuple[float, ...]
    identified: int = 12
    codes: int = 0
    recent: int = 0
    remembers: bool = True
    channels: int = 16
    width: int = 128
    heads: int = 4
    layers: int = 2
    feedforward: int = 256
    dropout: float = 0.0
    space: str = ACTION
    latent_bound: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON knows no tuples
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if len(self.bound) != self.action_size:
            raise ValueError(f"bound has {len(self.bound)} entries, but an action has {self.action_size}")
        if self.space not in SPACES:
            raise ValueError(f"space is {self.space!r}; there are {', '.join(map(repr, SPACES))}")
        channels = self.latent[1] if self.space == LATENT else 0
        if len(self.latent_bound) != channels:
            raise ValueError(
                f"latent_bound has {len(self.latent_bound)} entries; space {self.space!r} asks for {channels}"
            )
        if not all(0 <= bound < math.inf for bound in self.latent_bound):
            raise ValueError(f"latent_bound is {self.latent_bound}; each entry must be finite and at least 0")

    @property
    def head_shape(self) -> tuple[int, int]:
        """Shape of what the head says: a chunk (H, A), or latent tokens (L, dz)."""
        return self.latent if self.space == LATENT else (self.horizon, self.action_size)


@dataclass(frozen=True)
class Present:
    """The step that is to be corrected, batched, float32: latent (B, L, dz), sketch (B, T, d), proprio (B, P), base
    (B, H, A)."""

    latent: Tensor
    sketch: Tensor
    proprio: Tensor
    base: Tensor


@dataclass(frozen=True)
class Recalled:
    """k recalled steps for each, float32: executed, base, executed_before (B, k, H, A); proprio, proprio_next,
    proprio_before (B, k, P); latent (B, k, dz), the mean of Z; code (B, k, codes), of what was seen, zero where that is
    not known; success, similarity (B, k). there: bool (B, k), False for what only fills up."""

    executed: Tensor
    base: Tensor
    proprio: Tensor
    proprio_next: Tensor
    executed_before: Tensor
    proprio_before: Tensor
    latent: Tensor
    code: Tensor
    success: Tensor
    similarity: Tensor
    there: Tensor


@dataclass(frozen=True)
class Recent:
    """The last n decisions of this episode before the present one, float32, each as in `Recalled`. happened: bool
    (B, n), False for what only fills up."""

    executed: Tensor
    proprio: Tensor
    proprio_next: Tensor
    executed_before: Tensor
    proprio_before: Tensor
    happened: Tensor


class CrossAttention(nn.Module):
    """One pre-norm layer: the query attends to the memory, then thinks it over."""

    def __init__(self, c: EfnConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.query_norm, self.memory_norm, self.norm = (nn.LayerNorm(c.width) for _ in range(3))
        self.query, self.out = nn.Linear(c.width, c.width), nn.Linear(c.width, c.width)
        self.key_value = nn.Linear(c.width, 2 * c.width)
        self.feedforward = nn.Sequential(
            nn.Linear(c.width, c.feedforward), nn.GELU(), nn.Dropout(c.dropout), nn.Linear(c.feedforward, c.width)
        )

    def forward(self, query: Tensor, memory: Tensor, there: Tensor) -> Tensor:
        """query (B, Q, width), memory (B, k, width), there (B, k) -> (B, Q, width)."""
        q = self.query(self.query_norm(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(self.memory_norm(memory)).chunk(2, dim=-1)
        k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None, :])
        query = query + self.out(attended.transpose(1, 2).flatten(-2))
        return query + self.feedforward(self.norm(query))


class SetEncoder(nn.Module):
    """What the present step and those recalled say together: the part that actor and critics have in common."""

    def __init__(self, config: EfnConfig, beside: int = 0) -> None:
        """beside: numbers that are read with the present step."""
        super().__init__()
        self.config = c = config
        chunk, proprio, width = c.horizon * c.action_size, len(c.proprio_mean), c.width
        (tokens, channels), (seen, size) = c.latent, c.sketch
        for name in ("bound", "proprio_mean", "proprio_std", "motion_std"):
            self.register_buffer(name, torch.tensor(getattr(c, name), dtype=torch.float32), persistent=False)
        self.token = nn.Linear(size, c.channels)
        self.view = nn.Linear(seen * c.channels, width)  # where things are in the image is in which token says it
        self.present = _mlp(tokens * channels + width + proprio + chunk + beside, width)
        self.recalled = _mlp(3 * chunk + 4 * proprio + channels + c.codes + 2, width)
        if c.codes:  # fixed, so that what memory saw is read once: principal components, whitened
            self.register_buffer("code_mean", torch.zeros(seen * size))
            self.register_buffer("code_basis", torch.zeros(seen * size, c.codes))
        self.nothing = nn.Parameter(torch.zeros(width))  # what is attended to where no memory helps
        self.attention = nn.ModuleList(CrossAttention(c) for _ in range(c.layers))
        self.trunk = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU())

    def code(self, sketch: Tensor) -> Tensor:
        """What is kept of sketches (..., T, d): (..., codes)."""
        if not self.config.codes:
            return sketch.new_zeros((*sketch.shape[:-2], 0))
        return (sketch.flatten(-2) - self.code_mean) @ self.code_basis

    @property
    def codes(self) -> Codes | None:
        """What encodes for it what recalled steps saw."""
        return Codes(self.code_mean.numpy(), self.code_basis.numpy()) if self.config.codes else None

    def motion(self, steps: Recalled | Recent) -> Tensor:
        """How the robot moved in steps, (B, k, motion)."""
        return torch.cat(
            [
                steps.executed.flatten(2),
                steps.executed_before.flatten(2),
                (steps.proprio - self.proprio_mean) / self.proprio_std,
                (steps.proprio_next - steps.proprio) / self.motion_std,
                (steps.proprio - steps.proprio_before) / self.motion_std,  # an arm does not stop at once
            ],
            dim=-1,
        )

    def features(self, present: Present, recalled: Recalled, *beside: Tensor) -> Tensor:
        """(B, width); beside: (B, ...) each, so many numbers as were announced."""
        proprio = (present.proprio - self.proprio_mean) / self.proprio_std
        latent = F.layer_norm(present.latent, present.latent.shape[-1:])
        view = self.view(self.token(present.sketch).flatten(1))
        now = [latent.flatten(1), view, proprio, present.base.flatten(1), *(x.flatten(1) for x in beside)]
        query = self.present(torch.cat(now, dim=-1))[:, None]
        memory = self.recalled(
            torch.cat(
                [
                    self.motion(recalled),
                    (recalled.executed - recalled.base).flatten(2),
                    (recalled.proprio - present.proprio[:, None]) / self.proprio_std,
                    F.layer_norm(recalled.latent, recalled.latent.shape[-1:]),
                    recalled.code,
                    recalled.success[..., None],
                    recalled.similarity[..., None],
                ],
                dim=-1,
            )
        )
        there = recalled.there & self.config.remembers
        counted = there.float()[..., None]
        mean = (memory * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        memory = torch.cat([memory, self.nothing.expand(len(memory), 1, -1)], dim=1)
        attended = F.pad(there, (0, 1), value=True)
        for layer in self.attention:
            query = layer(query, memory, attended)
        return self.trunk(torch.cat([query[:, 0], mean], dim=-1))


class Efn(SetEncoder):
    """The actor. `residual` is what a robot gets, in latent space once it is decoded; `forward` what training needs.

    Where training knows the deployment, `identify` learns to tell it, which gives the features that the residual needs.
    """

    def __init__(self, config: EfnConfig) -> None:
        super().__init__(config)
        self.identify = nn.Linear(config.width, config.identified)
        self.head = nn.Linear(config.width, 2 * math.prod(config.head_shape))
        bound = torch.tensor(config.latent_bound or config.bound, dtype=torch.float32)
        self.register_buffer("head_bound", bound, persistent=False)
        if config.recent:
            motion = 2 * config.horizon * config.action_size + 3 * len(config.proprio_mean)
            self.trust = Trust(motion, config.codes, config.identified, config.width)
        nn.init.zeros_(self.head.weight)  # training begins at the base policy
        nn.init.zeros_(self.head.bias)

    def forward(self, present: Present, recalled: Recalled) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the residual before tanh, each (B, H, A); in latent space (B, L, dz)."""
        return self.actor(self.features(present, recalled))

    def actor(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.head(features).chunk(2, dim=-1)
        shape = self.config.head_shape
        return mean.unflatten(-1, shape), log_std.clamp(*LOG_STD_RANGE).unflatten(-1, shape)

    def residual(self, present: Present, recalled: Recalled) -> Tensor:
        """tanh of the mean, bounded (section 5): (B, H, A), or in latent space the change of Z, (B, L, dz); exactly
        zero where one that remembers recalled nothing."""
        return self.bounded(self(present, recalled)[0], recalled)

    def bounded(self, mean: Tensor, recalled: Recalled) -> Tensor:
        """The residual, or change of Z, of an actor's mean."""
        active = recalled.there.any(dim=1) | (not self.config.remembers)
        return self.head_bound * torch.tanh(mean) * active[:, None, None]

    def trusts(self, present: Present, recalled: Recalled, recent: Recent) -> tuple[Tensor, list[Tensor]]:
        """Trust in what was recalled, (B,) in [0, 1], and what `Trust` tells of the deployment."""
        code = self.code(present.sketch)
        return self.trust(
            self.motion(recalled), recalled.code, recalled.there, self.motion(recent), recent.happened, code
        )

    def save_pretrained(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(json.dumps(asdict(self.config), indent=1) + "\n")
        save_file(self.state_dict(), directory / WEIGHTS)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Efn:
        """Raises FileNotFoundError where there is no checkpoint, ValueError, naming it, for one that does not fit."""
        efn = cls(read_config(directory))
        _load(efn, Path(directory) / WEIGHTS)
        return efn.eval()


class EfnCritic(SetEncoder):
    """Q of a residual (B, H, A), in the action's units, beside what the actor reads: (B,)."""

    def __init__(self, config: EfnConfig) -> None:
        super().__init__(config, beside=config.horizon * config.action_size)
        self.value = nn.Linear(config.width, 1)

    def forward(self, present: Present, recalled: Recalled, action: Tensor) -> Tensor:
        share = action / self.bound.clamp(min=SMALLEST_BOUND)
        return self.value(self.features(present, recalled, share)).squeeze(-1)


class EfnCritics(nn.Module):
    """n critics that have nothing in common but what they read, so that where they agree they have seen much (B).

    critics(present, recalled, action, members=None) -> (n, B), or those of the critics whose indices are given.
    """

    def __init__(self, config: EfnConfig, n: int = 2) -> None:
        super().__init__()
        self.config, self.n = config, n
        self.members = nn.ModuleList(EfnCritic(config) for _ in range(n))

    def forward(self, present: Present, recalled: Recalled, action: Tensor, members: Tensor | None = None) -> Tensor:
        chosen = range(self.n) if members is None else members.tolist()
        return torch.stack([self.members[i](present, recalled, action) for i in chosen])

    def save_pretrained(self, directory: str | Path) -> None:
        """The weights alone: configuration and actor are those of the directory's `Efn`."""
        save_file(self.state_dict(), Path(directory) / CRITICS)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> EfnCritics:
        """Raises as `Efn.from_pretrained` does."""
        config, path = read_config(directory, CRITICS), Path(directory) / CRITICS
        with safe_open(path, "pt") as file:
            n = len({name.split(".")[1] for name in file.keys()})
        critics = cls(config, n)
        _load(critics, path)
        return critics.eval()


def read_config(directory: str | Path, weights: str = WEIGHTS) -> EfnConfig:
    """Of a checkpoint that has these weights. Raises as `Efn.from_pretrained` does."""
    directory = Path(directory)
    for name in (CONFIG, weights):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"no EFN checkpoint in {directory}: {name} is missing")
    try:
        return EfnConfig(**json.loads((directory / CONFIG).read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{directory / CONFIG} is no configuration of an EFN: {error}") from error


def require_action_space(directory: str | Path, who: str) -> None:
    """Raises ValueError, naming `who`, for a checkpoint that changes latent tokens; else as `read_config` does."""
    space = read_config(directory).space
    if space != ACTION:
        raise ValueError(
            f"{directory} has space {space!r}, but {who} needs a residual on the action itself; name a checkpoint of "
            f"./efn train --space {ACTION}"
        )


def _load(module: nn.Module, path: Path) -> None:
    weights, own = load_file(path), module.state_dict()
    shape = {name: [tuple(d[name].shape) if name in d else None for d in (weights, own)] for name in {*weights, *own}}
    wrong = sorted(name for name, (found, wanted) in shape.items() if found != wanted)
    if wrong:
        found, wanted = shape[wrong[0]]
        raise ValueError(
            f"{path} does not fit its configuration: {wrong[0]} is {found}, not {wanted}; {len(wrong)} tensors differ"
        )
    module.load_state_dict(weights)


def present_of(step: PolicyStep) -> Present:
    """One step as a batch of one."""
    arrays = (step.latent, step.sketch.dequantise(), step.proprio, step.base)
    return Present(*(torch.from_numpy(np.array(array, np.float32))[None] for array in arrays))


def recalled_of(steps: Experiences, config: EfnConfig) -> Recalled:
    """What was recalled for one step as a batch of one. Raises ValueError where what the steps saw is not encoded in as
    many numbers as the network reads."""
    k, seen = len(steps), steps.code.shape[1]
    if k and config.codes and seen != config.codes:
        raise ValueError(f"the EFN reads {config.codes} numbers of what a recalled step saw, not {seen}")
    size, proprio = (config.horizon, config.action_size), (len(config.proprio_mean),)
    shapes = dict.fromkeys(("executed", "base", "executed_before"), size)
    shapes |= dict.fromkeys(("proprio", "proprio_next", "proprio_before"), proprio)
    shapes |= {"latent": (config.latent[1],), "code": (config.codes,), "similarity": ()}

    def batch(column: np.ndarray) -> Tensor:
        return torch.from_numpy(column.astype(np.float32))[None]

    columns = {name: getattr(steps, name) if k else np.zeros((0, *shape)) for name, shape in shapes.items()}
    columns["code"] = columns["code"][:, : config.codes]
    return Recalled(
        **{name: batch(column) for name, column in columns.items()},
        success=batch(steps.outcome == Outcome.SUCCESS),
        there=torch.ones((1, k), dtype=torch.bool),
    )


def recent_of(past: Sequence[Past], proprio: np.ndarray, config: EfnConfig) -> Recent:
    """The last `config.recent` of the decisions right before one at proprio (P,), the oldest first, as a batch of one.
    Before the first of them the robot stood still, as far as is known."""
    n, chunk = config.recent, (config.horizon, config.action_size)
    broken = [i for i, p in enumerate(past) if p.executed.shape != chunk]  # a hold in place of a refused action
    past = past[broken[-1] + 1 if broken else 0 :][-n - 1 :]
    count, known = len(past), min(n, len(past))
    executed = np.stack([np.zeros(chunk), *(p.executed for p in past)])
    postures = np.stack([*(p.proprio for p in past), proprio])

    def batch(rows: np.ndarray) -> Tensor:
        rows = rows[count - known :].astype(np.float32)
        return torch.from_numpy(np.pad(rows, [(0, n - known), *[(0, 0)] * (rows.ndim - 1)]))[None]

    return Recent(
        executed=batch(executed[1:]),
        proprio=batch(postures[:-1]),
        proprio_next=batch(postures[1:]),
        executed_before=batch(executed[:-1]),
        proprio_before=batch(postures[np.maximum(np.arange(count) - 1, 0)]),
        happened=(torch.arange(n) < known)[None],
    )


def _mlp(size: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, width))
