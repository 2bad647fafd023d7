# SPDX-License-Identifier: MIT
"""LIBERO's data on disk: task files, initial states, meshes and textures.

The package index carries only LIBERO's code. Its data comes from a directory of the user with `bddl_files/<suite>`,
`init_files/<suite>` and `assets`.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

SUITES = ("libero_goal", "libero_spatial")
HORIZON = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}  # control steps


def find_files(assets: str | os.PathLike[str] | None, suites: Sequence[str]) -> Path:
    """Return the directory of LIBERO's data: `assets`, or else $EFN_LIBERO_DIR, or else $EFN_TEST_DATA/libero.

    Raises:
        ValueError: A suite is unknown.
        FileNotFoundError: No directory is named, or it lacks something that the suites need.
    """
    for suite in suites:
        if suite not in HORIZON:
            raise ValueError(f"LIBERO suite {suite!r} is unknown; choose from {', '.join(HORIZON)}")
    remedy = "set `assets` of the world, or EFN_LIBERO_DIR, to a directory with bddl_files, init_files and assets"
    test_data = os.environ.get("EFN_TEST_DATA")
    named = assets or os.environ.get("EFN_LIBERO_DIR") or (test_data and Path(test_data, "libero"))
    if not named:
        raise FileNotFoundError(f"no directory of LIBERO's data is named: {remedy}")
    directory = Path(named).expanduser().resolve()
    parts = ["assets", *(f"{kind}/{suite}" for kind in ("bddl_files", "init_files") for suite in suites)]
    missing = [part for part in parts if not (directory / part).is_dir()]
    if missing:
        raise FileNotFoundError(f"LIBERO's directory {directory} lacks {', '.join(missing)}: {remedy}")
    return directory


def read_tasks(suites: Sequence[str] = SUITES, assets: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return task name, "<suite>/<task file>", -> instruction; raises as `find_files`."""
    files = find_files(assets, suites) / "bddl_files"
    paths = [path for suite in suites for path in sorted((files / suite).glob("*.bddl"))]
    return {f"{path.parent.name}/{path.stem}": instruction_of(path) for path in paths}


def instruction_of(bddl: Path) -> str:
    """Return the instruction of a task: the name of its file without the scene.

    LIBERO's benchmark gives this to a policy, and policies were fine-tuned on it. The entry (:language ...) of the file
    often differs.
    """
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", bddl.stem).replace("_", " ")


def read_initial_states(file: Path) -> np.ndarray:
    """Return the initial states of a .pruned_init file, float64 (n, 1 + positions + velocities).

    The file is a NumPy array written by torch.save. Only what makes up such an array is loaded, so that the file
    cannot run code.

    Raises:
        pickle.UnpicklingError: The file holds anything else.
    """
    import torch

    rebuild = np.empty(0).__reduce__()[0]
    names = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]  # NumPy 1 and 2
    allowed = [*names, np.ndarray, np.dtype, np.dtypes.Float64DType]
    with torch.serialization.safe_globals(allowed):  # pyright: ignore[reportArgumentType]
        return torch.load(file, weights_only=True)


def configure_libero(files: Path) -> None:
    """Make LIBERO importable, with the meshes and textures of a directory."""
    if "libero.libero" not in sys.modules:
        config = tempfile.TemporaryDirectory(prefix="efn_libero_")
        atexit.register(config.cleanup)
        names = {"benchmark_root": ".", "datasets": ".", "assets": "assets"}
        names |= {"bddl_files": "bddl_files", "init_states": "init_files"}
        text = yaml.safe_dump({key: str(files / name) for key, name in names.items()})
        Path(config.name, "config.yaml").write_text(text, encoding="utf-8")  # or the import asks on standard input
        os.environ["LIBERO_CONFIG_PATH"] = config.name
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it warns of an optional file
    # LIBERO downloads its assets unless this variable names them.
    vars(importlib.import_module("libero.libero"))["_assets_path_cache"] = str(files / "assets")
