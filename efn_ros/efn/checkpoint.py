# SPDX-License-Identifier: MIT
"""Checkpoints of the network: a configuration and its weights in one directory."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

from efn_ros.efn.config import CONFIG, WEIGHTS, EfnConfig

Config = TypeVar("Config", bound=EfnConfig)

# Names in checkpoints before version 0.2 -> present names.
FIELDS_BEFORE = {
    "identified": "deployment_size",
    "codes": "code_size",
    "recent": "recent_steps",
    "remembers": "use_memory",
    "channels": "token_channels",
}
TENSORS_BEFORE = {
    r"nothing$": "null_token",
    r"trust\.sight\.": "trust.vision.",
    r"trust\.moves\.": "trust.motion_coordinates.",
    r"trust\.sees\.": "trust.vision_coordinates.",
    r"trust\.verdict\.": "trust.fusion.",
}
MEMBER = r"^(members\.\d+\.|)"  # a tensor of one of an ensemble of critics has this prefix
SPACE, LATENT_BOUND = "space", "latent_bound"  # fields before version 0.2, now of the experiment latent_residual


def save_checkpoint(network: nn.Module, config: EfnConfig, directory: Path) -> None:
    """Write configuration and weights to a directory, which is created if needed."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(asdict(config), indent=1) + "\n")
    save_file(network.state_dict(), directory / WEIGHTS)


def read_config(directory: str | Path, kind: type[Config] = EfnConfig, weights: str = WEIGHTS) -> Config:
    """Read the configuration of a checkpoint.

    Args:
        directory: Of the checkpoint.
        kind: Class of the configuration.
        weights: Name of the file of weights that must exist beside it.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        ValueError: The configuration does not fit its class.
    """
    directory = Path(directory)
    for name in (CONFIG, weights):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"no EFN checkpoint in {directory}: {name} is missing")
    try:
        return kind(**current_fields(json.loads((directory / CONFIG).read_text()), kind))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{directory / CONFIG} is no configuration of an EFN: {error}") from error


def current_fields(values: dict, kind: type[EfnConfig] = EfnConfig) -> dict:
    """Return the fields of a configuration under their present names.

    Raises:
        ValueError: The network changes latent tokens, which `kind` does not.
    """
    values = {FIELDS_BEFORE.get(name, name): value for name, value in values.items()}
    space = values.pop(SPACE, "action")
    if LATENT_BOUND in kind.__dataclass_fields__:
        return values
    if space != "action" or values.pop(LATENT_BOUND, ()):
        raise ValueError(
            "it changes latent tokens, which only the experiment latent_residual does; use a checkpoint of ./efn train"
        )
    return values


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights into a network.

    Raises:
        ValueError: A tensor is missing, unknown or of another shape; the message names the first.
    """
    weights, own = load_file(path), network.state_dict()
    for before, now in TENSORS_BEFORE.items():
        weights = {re.sub(MEMBER + before, rf"\g<1>{now}", name): tensor for name, tensor in weights.items()}
    shapes = {name: [tuple(d[name].shape) if name in d else None for d in (weights, own)] for name in weights | own}
    different = sorted(name for name, (found, expected) in shapes.items() if found != expected)
    if different:
        found, expected = shapes[different[0]]
        raise ValueError(
            f"{path} does not fit its configuration: {different[0]} is {found}, not {expected}; "
            f"{len(different)} tensors differ"
        )
    network.load_state_dict(weights)
