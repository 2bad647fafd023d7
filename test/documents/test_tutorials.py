# SPDX-License-Identifier: MIT
"""The tutorials run as they are written: commands and programs in their order, in one directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, TUTORIALS, blocks, name_of
from harness import own_domain

SHELL = "subprocess.run(['bash', '-euo', 'pipefail', '-c', {!r}], check=True)\n"
CHECKS = "./efn doctor"  # its exit code is that of the machine


def marked(page: Path):
    """One test a page; a program in it starts a graph, commands alone do not."""
    marks = pytest.mark.integration if blocks(page, language="python") else pytest.mark.simulator
    return pytest.param(page, id=name_of(page), marks=[marks, pytest.mark.timeout(900)])


@pytest.mark.parametrize("page", map(marked, TUTORIALS))
def test_a_tutorial_runs(page: Path, tmp_path: Path):
    program = "import subprocess\n"
    for block in blocks(page):
        if block.language == "bash":
            text = re.sub(rf"^{CHECKS}$", f"{CHECKS} || true", block.text, flags=re.MULTILINE)
            program += SHELL.format(text.replace("./efn", str(ROOT / "efn")))
        elif block.language == "python":
            program += f"exec(compile({block.text!r}, {block.name!r}, 'exec'), globals())\n"
    with own_domain() as domain:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    assert done.returncode == 0, done.stdout
