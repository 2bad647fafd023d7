"""./efn report: what documents say is what the results files say, here and after any change of them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from efn_ros.commands.main import main
from efn_ros.report.results import BLOCKS, fill, render

ROOT = Path(__file__).resolve().parents[2]
MADE_BY = {
    "date": "2026-01-02",
    "commit": "abc1234",
    "machine": {"cpu": "A CPU", "cores": 2, "system": "Linux"},
    "versions": {},
}
STAGE = {"p50_s": 0.0012, "p95_s": 0.002, "p99_s": 0.0034, "max_s": 0.01, "n": 990}
COMPARISON = {
    "deployment": "actuation",
    "task": "all",
    "pairs": 240,
    "base": 0.5,
    "memory": 0.625,
    "low": -0.02,
    "high": 0.2,
    "fixed": 40,
    "broke": 10,
    "base_steps": 61.4,
    "memory_steps": math.nan,
    "residual": 0.1,
}
RESULTS = {
    "latency": {
        **MADE_BY,
        "rate_hz": 30.0,
        "corrected_actions": 990,
        "without_recall": 3,
        "stages": {"total": STAGE},
    },
    "evaluation": {
        **MADE_BY,
        "episodes_a_task": 20,
        "remembered": 10,
        "comparisons": [COMPARISON, {**COMPARISON, "task": "push", "pairs": 20}],
        "episodes": [],
    },
    "policy": {**MADE_BY, "training": {}, "tasks": {"push": {"success": 0.95, "steps": 60.2, "n": 20}}, "mean": 0.95},
}
SAID = {
    "latency": [
        "| image stamp to corrected action |   1.20 | 2.00 | 3.40 | 10.00 | 990 |",
        "30 images a second",
        "n = 990",
    ],
    "evaluation": ["| actuation  | 240 | 50 % |", "-2 .. +20", "40 / 10", "|    61 |", "actuation: push", "n = 240"],
    "policy": ["| push |    95 % |    60 |", "n = 20"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Documents with every block, and no results yet."""
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    text = "".join(f"before\n<!-- results:{name} -->\nstale\n<!-- /results:{name} -->\nafter\n" for name in BLOCKS)
    for path in ("README.md", "docs/deep/page.md"):
        (tmp_path / path).write_text(text)
    return tmp_path


def put_results(root: Path) -> None:
    for name, results in RESULTS.items():
        path = root / BLOCKS[name][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results))


def test_the_documents_say_what_the_results_files_say():
    assert main(["report", "--check"]) == 0, "run ./efn report"


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_holds_the_figures_and_where_they_come_from(checkout, name):
    put_results(checkout)
    block = render(checkout)[name]
    for part in (*SAID[name], "A CPU, 2 cores, Linux; 2026-01-02; commit abc1234"):
        assert part in block
    assert "nan" not in block


@pytest.mark.parametrize("name", BLOCKS)
def test_without_a_results_file_a_block_says_which_command_makes_it(checkout, name):
    assert BLOCKS[name][2] in render(checkout)[name]


def test_filling_is_checked_then_done_then_stable(checkout, capsys):
    def report(*words: str) -> int:
        return main(["report", "--root", str(checkout), *words])

    assert report("--check") == 1 and "stale" in (checkout / "README.md").read_text()
    assert report() == 0 and report("--check") == 0
    put_results(checkout)
    assert report("--check") == 1
    assert "docs/deep/page.md differs from the results files: run ./efn report" in capsys.readouterr().out
    assert report() == 0 and report("--check") == 0
    text = (checkout / "docs/deep/page.md").read_text()
    assert "stale" not in text and text.count("before\n") == text.count("after\n") == len(BLOCKS)


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- results:nothing -->\n<!-- /results:nothing -->\n", "no results 'nothing'"),
        ("<!-- results:policy -->\nwithout an end", "lacks its beginning, its end"),
        ("<!-- results:policy --><!-- /results:policy -->", "lacks its beginning, its end"),
    ],
)
def test_a_broken_block_is_refused(checkout, capsys, text, message):
    with pytest.raises(ValueError, match=message):
        fill(text, {"policy": ""})
    (checkout / "README.md").write_text(text)
    assert main(["report", "--root", str(checkout)]) == 2
    assert "README.md" in capsys.readouterr().err


def test_outside_of_a_checkout_it_says_so(tmp_path, capsys):
    assert main(["report", "--root", str(tmp_path)]) == 2
    assert "run it in a checkout" in capsys.readouterr().err


def test_the_real_documents_survive_a_filling(checkout):
    shutil.copy(ROOT / "README.md", checkout / "README.md")
    put_results(checkout)
    assert main(["report", "--root", str(checkout)]) == 0
    assert "commit abc1234" in (checkout / "README.md").read_text()
