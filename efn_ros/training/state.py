"""Arrays and facts in one safetensors file, which appears as a whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from efn_ros import files


def write(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """One safetensors file with `facts` as JSON in its header; it replaces what was there at once, or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    save_file(arrays, temporary, {"facts": json.dumps(facts)})
    files.replace(temporary, path)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write` wrote. Raises FileNotFoundError, and ValueError, naming it, for a file that it did not write."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or of another kind: {error}") from error
