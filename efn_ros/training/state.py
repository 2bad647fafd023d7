"""What an interrupted training leaves: arrays and facts in one safetensors file, and a check of its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from efn_ros import files


def write_state(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write arrays, and facts as JSON in the header, to one file; it replaces what was there at once, or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    save_file(arrays, temporary, {"facts": json.dumps(facts)})
    files.replace(temporary, path)


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_state` wrote.

    Raises:
        FileNotFoundError: There is no file.
        ValueError: The file is damaged or of another kind; the message names it.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or of another kind ({error}); remove it to begin anew") from error


def check_settings(what: Path | str, made: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to go on with what was made with other settings.

    Args:
        what: That was made: a file or a directory.
        made: Settings that it was made with, as JSON gave them back.
        asked: Settings that are asked for now.

    Raises:
        ValueError: They differ; the message names the first setting that does.
    """
    asked = json.loads(json.dumps(asked))
    for name in sorted({*asked, *made}):
        if asked.get(name) != made.get(name):
            raise ValueError(
                f"{what} was made with {name} {made.get(name)}, not {asked.get(name)}; "
                "go on with that, or name another directory"
            )
