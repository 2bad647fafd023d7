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

# Names that checkpoints before version 0.2 have.
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
SPACE, LATENT_BOUND = "space", "latent_bound"  # fields before 0.2 that are now of the experiment with latent residuals


def save_checkpoint(network: nn.Module, config: EfnConfig, directory: Path) -> None:
    """Write configuration and weights to a directory, which is made if there is none."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(asdict(config), indent=1) + "\n")
    save_file(network.state_dict(), directory / WEIGHTS)


def read_config(directory: str | Path, kind: type[Config] = EfnConfig, weights: str = WEIGHTS) -> Config:
    """Read the configuration of a checkpoint that has a file of these weights.

    Raises:
        FileNotFoundError: A file is missing; the message names it.
        ValueError: The configuration is not of this kind.
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
        ValueError: It is of a network that changes latent tokens, which `kind` does not.
    """
    values = {FIELDS_BEFORE.get(name, name): value for name, value in values.items()}
    space = values.pop(SPACE, "action")
    if LATENT_BOUND in kind.__dataclass_fields__:
        return values
    if space != "action" or values.pop(LATENT_BOUND, ()):
        raise ValueError(
            "it changes latent tokens, which only the experiment latent_residual does; name a checkpoint of ./efn train"
        )
    return values


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights that fit a network exactly.

    Raises:
        ValueError: Tensors are missing, too many or of another shape; the message names the first.
    """
    weights, own = load_file(path), network.state_dict()
    for before, now in TENSORS_BEFORE.items():
        weights = {re.sub(rf"^{before}", now, name): tensor for name, tensor in weights.items()}
    shape = {name: [tuple(d[name].shape) if name in d else None for d in (weights, own)] for name in {*weights, *own}}
    wrong = sorted(name for name, (found, wanted) in shape.items() if found != wanted)
    if wrong:
        found, wanted = shape[wrong[0]]
        raise ValueError(
            f"{path} does not fit its configuration: {wrong[0]} is {found}, not {wanted}; {len(wrong)} tensors differ"
        )
    network.load_state_dict(weights)
