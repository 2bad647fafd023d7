# SPDX-License-Identifier: MIT
"""The checks of `./efn lint`, which hold for this checkout, and its ratchet of type errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from efn_ros.commands.lint import CHECKS, compare, room_of
from efn_ros.commands.main import main

ROOT = Path(__file__).resolve().parents[2]


OLD = pytest.mark.skipif(sys.version_info < (3, 11), reason="libraries pinned for Python 3.10 have other types")


@pytest.mark.parametrize("check", [pytest.param(c, marks=OLD) if c == "types" else c for c in CHECKS])
def test_this_checkout_passes(check, monkeypatch, capfd):
    monkeypatch.setenv("EFN_ROOT", str(ROOT))
    assert main(["lint", "--only", check]) == 0, capfd.readouterr()


def test_outside_a_checkout_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EFN_ROOT", str(tmp_path))
    assert main(["lint"]) == 2 and "run it in a checkout" in capsys.readouterr().err


def error(file: str, line: int = 3) -> dict:
    return {"file": str(ROOT / file), "message": "no such thing", "range": {"start": {"line": line}}, "rule": "r"}


@pytest.mark.parametrize(
    ("errors", "allowed", "code", "words"),
    [
        ([], {}, 0, ""),
        ([], {"efn_ros/worlds": 0}, 0, ""),
        ([error("efn_ros/worlds/libero.py")], {"efn_ros/worlds": 1}, 0, ""),
        ([error("efn_ros/worlds/libero.py")], {}, 1, "worlds/libero.py:4: no such thing (r)"),
        ([error("efn_ros/types.py")], {"efn_ros/worlds": 1}, 1, "efn_ros/types.py: 1 type errors, 0 are allowed"),
        ([], {"bench": 2}, 1, "bench: only 0 type errors are left"),
    ],
)
def test_a_room_may_have_exactly_the_errors_of_the_ratchet(errors, allowed, code, words, capsys):
    assert compare(errors, allowed, ROOT) == code
    assert words in capsys.readouterr().out


def test_a_file_belongs_to_its_room():
    places = ("efn_ros/bank/store/writer.py", "efn_ros/types.py", "bench/latency.py")
    assert [room_of(Path(place)) for place in places] == ["efn_ros/bank", "efn_ros/types.py", "bench"]
