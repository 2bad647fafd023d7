"""Checkpoints of the network: a configuration and its weights in one directory."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from efn_ros.efn.config import ACTION, CONFIG, WEIGHTS, EfnConfig


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
