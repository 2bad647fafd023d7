# SPDX-License-Identifier: MIT
"""What the tests of the examples share: the example backbone as pip installs it, and a ROS domain of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def installed_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that pip installed the example backbone into; nothing is downloaded."""
    directory = tmp_path_factory.mktemp("backbone")
    source, target = shutil.copytree(EXAMPLES / "backbone", directory / "source"), directory / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*pip, "--target", target, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def own_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A ROS domain that no other test uses, also for the processes that the test starts."""
    import harness

    with harness.own_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield
