# SPDX-License-Identifier: MIT
"""The state of an interrupted training: arrays and facts in one safetensors file, and a check of its settings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from efn_ros import files

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def write_state(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write arrays, and facts as JSON in the header, to one file; a file of this name is replaced atomically."""
    temporary = path.with_name(path.name + ".tmp")
    save_file(arrays, temporary, {"facts": json.dumps(facts)})
    files.replace(temporary, path)


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_state` wrote.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or of another kind; the message names it.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or of another kind ({error}); remove it to begin anew") from error


def settings_of(config: DataclassInstance, *left_out: str) -> dict[str, Any]:
    """Return the fields of a configuration as a dictionary, without those that are left out."""
    return {name: value for name, value in asdict(config).items() if name not in left_out}


def check_settings(what: Path | str, made: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to resume a training that began with other settings.

    Args:
        what: File or directory of the training.
        made: Settings that it began with, as read from JSON.
        asked: Settings now.

    Raises:
        ValueError: They differ; the message names the first setting that does.
    """
    asked = json.loads(json.dumps(asked))
    for name in sorted({*asked, *made}):
        if asked.get(name) != made.get(name):
            raise ValueError(
                f"{what} was made with {name} {made.get(name)}, not {asked.get(name)}; "
                "use that value, or name another directory"
            )
