# SPDX-License-Identifier: MIT
"""The generated pages are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from efn_ros import commands
from efn_ros.commands import _reference as reference
from efn_ros.commands._subcommands import modules
from efn_ros.commands.main import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_pages_are_those_of_the_code():
    assert main(["docs", "--check"]) == 0, "run ./efn docs"


def test_a_page_that_differs_is_named_and_written_anew(tmp_path, capsys):
    for name in ("msg", "srv", "action", "launch", "efn_ros"):
        (tmp_path / name).symlink_to(ROOT / name)
    words = ["docs", "--root", str(tmp_path)]
    assert main([*words, "--check"]) == 1 and not (tmp_path / "docs").exists()
    assert main(words) == 0 and main([*words, "--check"]) == 0
    page = tmp_path / "docs/reference/graphs.md"
    page.write_text(page.read_text() + "by hand")
    assert main([*words, "--check"]) == 1
    assert "docs/reference/graphs.md differs from the code: run ./efn docs" in capsys.readouterr().out


def test_every_interface_field_parameter_and_command_is_there():
    pages = reference.pages(ROOT)
    interfaces, parameters = pages["reference/interfaces.md"], pages["reference/parameters.md"]
    for path in [*(ROOT / "msg").iterdir(), *(ROOT / "srv").iterdir(), *(ROOT / "action").iterdir()]:
        assert f"### {path.stem}\n" in interfaces
    for name in ("`int32` | `selected (default -1)` | index of the step", "Request:", "`OUTCOME_ABORTED=3`"):
        assert name in interfaces
    executables = re.findall(r'"(\w+) = efn_ros\.', (ROOT / "setup.py").read_text())
    assert executables
    for name in executables:
        assert f"## {name}\n" in parameters
    assert "| `limits.jerk` | double[] | `[.inf]` |" in parameters
    assert "| `on_exit` | `''` | `''`, `restart`, `stop` |" in pages["reference/graphs.md"]
    for name in modules(commands):
        assert f"## {name}\n" in pages["reference/commands.md"]
    for name in ("### bank verify", "| `--updates` |", "`--on-exit {restart, stop}`"):
        assert name in pages["reference/commands.md"], name


def test_no_placeholder_vanishes_as_html():
    for name, text in reference.pages(ROOT).items():
        prose = re.sub(r"`[^`]*`|<!--.*?-->", "", text)
        assert "<" not in prose, name


def test_no_page_names_a_directory_of_this_machine():
    for name, text in reference.pages(ROOT).items():
        assert str(ROOT) not in text and str(Path.home()) not in text, name
