# SPDX-License-Identifier: MIT
"""Provenance of results: machine, versions, commit."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "torch", "transformers", "mujoco", "metaworld", "ros-jazzy-rclpy")


def here() -> dict[str, object]:
    """Return the entries of a results file on the machine and the code that wrote it."""
    root = Path(__file__).resolve().parents[2]
    commit = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True)
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": unknown")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "machine": {"cpu": model.split(":", 1)[1].strip(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version(), **versions},
    }
