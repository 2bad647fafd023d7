# SPDX-License-Identifier: MIT
"""./efn report: documents and figures show the results files, in this checkout and after any change of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from efn_ros.commands.main import main
from efn_ros.report.blocks import BLOCKS, fill, render
from efn_ros.report.figures import FIGURES, refresh

ROOT = Path(__file__).resolve().parents[2]
MADE_BY = {
    "date": "2026-01-02",
    "commit": "abc1234",
    "machine": {"cpu": "A CPU", "cores": 2, "system": "Linux"},
    "versions": {},
}
STAGE = {"p50_s": 0.0012, "p95_s": 0.002, "p99_s": 0.0034, "max_s": 0.01, "n": 990}
BASE = {"value": 0.5, "low": 0.38, "high": 0.61}
COMPARISON = {
    "group": "all",
    "of": "",
    "condition": "memory",
    "volume": 10,
    "pairs": 240,
    "base": BASE,
    "success": {"value": 0.625, "low": 0.5, "high": 0.7},
    "difference": {"value": 0.125, "low": -0.02, "high": 0.2},
    "removed": {"value": 0.25, "low": -0.1, "high": 0.4},
    "fixed": 40,
    "broke": 10,
    "steps": 58.6,
    "base_steps": 61.4,
    "residual": 0.1,
    "trust": 0.9,
}
ALONE = {**COMPARISON, "condition": "base", "volume": 0, "success": BASE, "fixed": 0, "broke": 0, "residual": 0.0}
OTHER = {**COMPARISON, "condition": "other memory", "success": {"value": 0.42, "low": 0.3, "high": 0.5}}
WORK = {**COMPARISON, "condition": "memory from work with noise", "success": {"value": 0.75, "low": 0.6, "high": 0.8}}
NEVER = {**COMPARISON, "removed": None, "steps": None, "base_steps": None, "pairs": 20}
EVALUATION = {
    **MADE_BY,
    "setting": "deployments",
    "deployments": 24,
    "tasks": ["push", "reach"],
    "episodes_a_task": 1,
    "comparisons": [
        ALONE,
        {**COMPARISON, "volume": 1},
        COMPARISON,
        {**WORK, "volume": 1},
        WORK,
        OTHER,
        *({**c, "group": "task", "of": "push", "pairs": 20} for c in (ALONE, COMPARISON, OTHER)),
        *({**c, "group": "task", "of": "reach"} for c in (NEVER, {**OTHER, "pairs": 20})),
        *({**c, "group": "shift", "of": "yaw", "pairs": 20} for c in (ALONE, {**COMPARISON, "volume": 1}, COMPARISON)),
    ],
    "episodes": [],
}
POLICY = {**MADE_BY, "training": {}, "tasks": {"push": {"success": 0.95, "steps": 60.2, "n": 20}}, "mean": 0.95}
RESULTS = {
    "latency": {
        **MADE_BY,
        "rate_hz": 30.0,
        "corrected_actions": 990,
        "without_recall": 3,
        "stages": {"total": STAGE},
    },
    "evaluation": EVALUATION,
    "evaluation-volumes": EVALUATION,
    "evaluation-work": EVALUATION,
    "evaluation-libero": {**EVALUATION, "kinds": ["offset", "gain"]},
    "as-trained-weak": {**EVALUATION, "setting": "as-trained", "bank": True},
    "bank": {
        **MADE_BY,
        "banks": [
            {
                **{
                    "steps": steps,
                    "rollouts": steps // 100,
                    "candidates": 7500,
                    "n": 2000,
                    "ingest": {"rollouts_a_second": 200.0},
                },
                **{"recall_s": 4e-4 * grown, "recall_p99_s": 1e-3, "similarity_s": 3e-4, "float_product_s": 2e-4},
                **{"start_warm_s": 4e-3, "start_cold_s": 0.04, "open_s": 0.5, "resident_bytes": 2e8},
                **{"payload_bytes_a_step": 1400.0, "catalogue_bytes_a_step": 5.0},
            }
            for steps, grown in ((10_000, 1.0), (10_000_000, 1.1))
        ],
        "fidelity": [{"int8_of_float": 0.99, "projected_of_full": 0.91, "tokens": "synthetic", "keys": 3000}],
        "bytes": {"raw": 2_000_000, "sketch": 66_000, "key": 260},
        "filter": {"rollouts": 100_000, "distinct": {"100000": {"filter_s": 0.0015, "faiss_flat_s": 0.001}}},
    },
    "bank-crashes": {
        **MADE_BY,
        "kills": {"n": 1000, "acknowledged": 5000, "forgotten": 4000, "lost": 0, "back": 0, "torn": 0},
        "flips": {"n": 200, "found": 200},
    },
    "confidence": {
        **MADE_BY,
        "deployments": 8,
        "rollouts": 100,
        "n": 1440,
        "success": {"learned": 0.91, "recalled": 0.7},
        "forms": {
            name: {
                "brier": 0.1,
                "calibration_error": error,
                "bins": [{"predicted": 0.5, "observed": 0.75, "low": 0.6, "high": 0.9, "n": 720}] * 2,
            }
            for name, error in (("success_probability", 0.012), ("confidence", 0.25), ("success_rate", 0.02))
        },
    },
    "search": {
        **MADE_BY,
        "steps": 1_000_000,
        "queries": 400,
        "hits": 256,
        "indexes": [
            {
                **{"index": "Flat", "found": 1.0, "search_s": 0.04, "search_p99_s": 0.05, "made_s": 0.8, "n": 400},
                **{"bytes_a_step": 1024.0, "found_elsewhere": 0.98, "search_elsewhere_s": 0.06},
            },
            {"index": "hnswlib", "missing": "not installed"},
        ],
        "banks": [
            {
                **{"steps": 10_000, "search": search, "rollouts": 67, "candidates": 7500, "recall_s": 1e-3, "n": 500},
                **{"recall_p99_s": 2e-3, "search_s": searched, "start_s": 4e-3, "chosen_anew": 0.5, "warm_s": 12.34},
                **{"resident_bytes": 3e8},
            }
            for search, searched in (("instruction", None), ("everything", 6e-4))
        ],
    },
    "faults": {
        **MADE_BY,
        "commands": 9000,
        "broken": {"jerk": 2, "start": 1},
        "faults": [
            {
                **{
                    "fault": "kill -9 of vla_policy",
                    "reaction": "holding -> tracking",
                    "after_s": 0.0612,
                    "then": "nothing",
                },
                **{"hold_error_rad": None, "reason": "actions have ceased", "sent_at_rest": None, "moved_rad": 0.0031},
            }
        ],
    },
    "soak": {
        **MADE_BY,
        "seconds": 600.0,
        "episodes": 20,
        "saved": 19,
        "holds": {"actions have ceased": 2},
        "commands": 60000,
        "largest_gap_s": 0.0154,
        "memory": {"bank_writer": {"first": 100e6, "last": 103e6, "drift": 0.25e6}},
    },
    "jitter": {
        **MADE_BY,
        "seconds": 60.0,
        "runs": {
            "busy": {"p50_s": 0.01, "p99_s": 0.011, "p999_s": 0.012, "max_s": 0.02, "n": 6000, "scheduling": "as usual"}
        },
    },
    "fuzz": {
        **MADE_BY,
        "n": 1000,
        "sent": {"near": 600, "huge": 400},
        "became": {"actions actions": 550},
        "commands": 2000,
        "broken": {},
        "topic": {"seconds": 600.0, "n": 500, "commands": 700, "broken": {"box": 1}},
    },
    "rewards": {
        **MADE_BY,
        "n": 36,
        "deployments": 6,
        "runs": [
            {
                "reward": "anti_idling",
                "similarity": "sinkhorn",
                "episodes": 320,
                "decisions": 6400,
                "supervised": 0.97,
                "after": 0.86,
            },
        ],
    },
    "as-trained": {**EVALUATION, "setting": "as-trained", "deployments": 1, "comparisons": [ALONE, NEVER]},
    "policy": POLICY,
    "policy-libero": POLICY,
}
EXPECTED = {
    "faults": [
        "| kill -9 of vla_policy | holding -&gt; tracking |     61.20 |               - |",
        "9000 commands, 3 were outside",
        "n = 1",
    ],
    "soak": [
        "| bank_writer |              100.0 |      103.0 |           0.2 |",
        "20 episodes in 10 minutes, 19 saved; holds within them: actions have ceased: 2; the largest gap",
        "60000 commands: 15.4 ms",
        "n = 20",
    ],
    "jitter": ["| busy    |   as usual |      10.00 | 11.00 | 12.00 |   20.00 | 6000 |", "n = 6000"],
    "fuzz": [
        "Of 2000 commands that the bridge sent while it received 1000 chunks (400 huge, 600 near)",
        "0 were outside a limit. 550 chunks were followed.",
        "received 500 more beside that of a simulated robot, published 700 commands in 10 minutes, of which 1 were.",
        "n = 1500",
    ],
    "confidence": [
        "| the success probability, as learned from the bank             |       0.100 |             0.012 |",
        "| confidence, uncalibrated                                      |       0.100 |             0.250 |",
        "8 deployments, 100 rollouts in each with the packaged network (91 % succeed)",
        "over 2 bins of as many episodes",
        "n = 1440",
    ],
    "bank-crashes": ["Of 5000 rollouts", "in 1000 runs", "0 were lost and 0 incomplete", "`verify` found 200."],
    "bank": [
        "| 10 000 000 |   100000 |       0.44 | 1.00 |          0.30 |           0.20 |            4.00 |    40.00 |",
        "recall takes 1.10 x as long in the largest bank",
        "200 rollouts a second are written",
        "| synthetic                | 3000 |                           99 % |                              91 % |",
        "a step has 2.0 MB; its sketch has 66 kB and its key 260 bytes.",
    ],
    "search": [
        "| Flat                    |     1.000 |      40.00 | 50.00 |     0.8 |         1024 |     0.980 | 60.00 |",
        "| hnswlib (not installed) |         - |          - |     - |       - |            - |         - |     - |",
        "| 10 000 | instruction |     7500 |       1.00 | 2.00 |         - |      4.00 |        50 % |",
        "| 10 000 |  everything |     7500 |       1.00 | 2.00 |      0.60 |      4.00 |        50 % |        12.3 |",
        "1 000 000 keys, 400 queries of 256 hits, one thread.",
    ],
    "latency": [
        "| image stamp to corrected action |   1.20 | 2.00 | 3.40 | 10.00 | 990 |",
        "30 images a second",
        "n = 990",
    ],
    "evaluation": [
        "| base alone                                 |        - | 50 (38 .. 61) |                      - |",
        "| memory                                     |       10 | 62 (50 .. 70) |         25 (-10 .. 40) |",
        "| memory of another deployment               |       10 | 42 (30 .. 50) |",
        "50 % without memory, 62 % with 10 rollouts of the base alone to recall: +12 (-2 .. +20) points.",
        "With as many that the robot collected at work, corrected and exploring: 75 %.",
        "24 deployments, 2 tasks, 1 scene of each",
        "n = 240",
    ],
    "evaluation-by-task": [
        "| push  | 20 | 50 % |   62 % | 25 (-10 .. 40) |       40 / 10 |          61 |    59 |",
        "| reach | 20 | 50 % |   62 % |              - |       40 / 10 |           - |     - |",
        "| memory of another deployment |",
        "|                         42 % |",
    ],
    "evaluation-work": ["75 %", "n = 240"],
    "as-trained-weak": ["Success as trained", "with 10 rollouts of the given bank to recall"],
    "rewards": ["| anti-idling (14)-(16)  |   Sinkhorn |      320 |      6400 |       97 % |  86 % |", "n = 36"],
    "evaluation-volumes": ["50 % without memory, 62 % with 10 rollouts", "n = 240"],
    "evaluation-by-shift": ["| yaw           | 20 | 50 % |   62 % |", "Memory of 10 rollouts."],
    "as-trained": ["Success as trained: 50 % without memory", "2 tasks, 1 scene of each", "n = 20"],
    "evaluation-libero": ["Success in held-out deployments, with these shifts alone: offset, gain: 50 %"],
    "policy": ["| push |    95 % |    60 |", "n = 20"],
    "policy-libero": ["| push |    95 % |    60 |", "n = 20"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Documents with every block, and no results yet."""
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    text = "".join(f"before\n<!-- results:{name} -->\nstale\n<!-- /results:{name} -->\nafter\n" for name in BLOCKS)
    for path in ("README.md", "docs/deep/page.md"):
        (tmp_path / path).write_text(text)
    return tmp_path


def put_results(root: Path, **changed: dict) -> None:
    for name, results in {**RESULTS, **changed}.items():
        path = root / BLOCKS[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results))


def test_the_documents_of_this_checkout_are_up_to_date():
    assert main(["report", "--check"]) == 0, "run ./efn report"


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_holds_results_and_provenance(checkout, name):
    put_results(checkout)
    block = render(checkout)[name]
    for part in (*EXPECTED[name], "A CPU, 2 cores, Linux; 2026-01-02; commit abc1234"):
        assert part in block
    assert "nan" not in block


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_without_a_results_file_names_the_command_that_writes_it(checkout, name):
    assert BLOCKS[name].command in render(checkout)[name]


def test_filling_is_checked_then_done_then_stable(checkout, capsys):
    def report(*words: str) -> int:
        return main(["report", "--root", str(checkout), *words])

    assert report("--check") == 1 and "stale" in (checkout / "README.md").read_text()
    assert report() == 0 and report("--check") == 0
    put_results(checkout)
    assert report("--check") == 1
    out = capsys.readouterr().out
    for stale in ("docs/deep/page.md", "docs/images/volumes.png"):
        assert f"{stale} differs from the results files: run ./efn report" in out
    assert report() == 0 and report("--check") == 0
    text = (checkout / "docs/deep/page.md").read_text()
    assert "stale" not in text and text.count("before\n") == text.count("after\n") == len(BLOCKS)


def test_figures_are_drawn_again_after_their_results_change(checkout):
    put_results(checkout)
    assert refresh(checkout, draw=False) == list(FIGURES) and not (checkout / "docs/images").exists()
    assert refresh(checkout, draw=True) == list(FIGURES) and refresh(checkout, draw=False) == []
    drawn = (checkout / "docs/images/volumes.png").read_bytes()
    put_results(checkout, evaluation={**EVALUATION, "date": "2026-01-03"})
    assert refresh(checkout, draw=False) == [], "a figure does not show the date"
    put_results(checkout, evaluation={**EVALUATION, "comparisons": [ALONE, *EVALUATION["comparisons"][2:]]})
    assert refresh(checkout, draw=True) == ["docs/images/volumes.png", "docs/images/changes.png"]
    assert (checkout / "docs/images/volumes.png").read_bytes() != drawn
    (checkout / "docs/images/changes.png").unlink()
    assert refresh(checkout, draw=False) == ["docs/images/changes.png"]


def test_banks_that_existed_before_the_measurement_have_no_write_rate(checkout):
    banks = [{name: value for name, value in bank.items() if name != "ingest"} for bank in RESULTS["bank"]["banks"]]
    put_results(checkout, bank={**RESULTS["bank"], "banks": banks})
    text = render(checkout)["bank"]
    assert "rollouts a second" not in text
    assert "as in the smallest. The instruction filter over 100000 rollouts" in text


def test_results_of_version_0_1_have_the_present_names_of_conditions(checkout):
    before = {**OTHER, "condition": "wrong memory"}
    put_results(checkout, evaluation={**EVALUATION, "comparisons": [ALONE, COMPARISON, before]})
    assert "| memory of another deployment |" in render(checkout)["evaluation"]


def test_without_results_there_is_no_figure_to_draw(checkout):
    assert refresh(checkout, draw=True) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- results:nothing -->\n<!-- /results:nothing -->\n", "results 'nothing' are unknown"),
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
