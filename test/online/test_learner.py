# SPDX-License-Identifier: MIT
"""Online learning: training data, candidates, and files that never change."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sample_work
from sample_work import CONFIG, PATTERN, RECALL, bank_of, checkpoint, patterned, random_efn, rollout, store

from efn_ros.bank import BankReader
from efn_ros.correction.checkpoint_registry import RULE, Registry, fingerprint
from efn_ros.online import learner as learning
from efn_ros.online.learner import Learner
from efn_ros.online.throttle import Stopped, Throttle
from efn_ros.types import Mode

ROOT = Path(learning.__file__).parents[2]


@pytest.fixture
def origin(tmp_path):
    return checkpoint(tmp_path / "origin")


def contents(*directories) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for directory in directories
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_bank_of_another_policy_is_refused_by_name(tmp_path):
    bank = bank_of(tmp_path, patterned())
    learner = Learner(bank, checkpoint(tmp_path / "other", latent=(4, 12)), CONFIG, RECALL)
    with pytest.raises(ValueError, match=r"latent in the bank has shape \(4, 10\); the EFN takes \(4, 12\)"):
        learner.advance()


def test_a_checkpoint_that_changes_latent_tokens_is_refused_before_anything_is_written(tmp_path, origin):
    config = json.loads((origin / "config.json").read_text()) | {"space": "latent", "latent_bound": [1.0] * 10}
    (origin / "config.json").write_text(json.dumps(config))
    learner = Learner(bank_of(tmp_path, patterned(30)), origin, CONFIG, RECALL)
    with pytest.raises(ValueError, match="changes latent tokens, which only the experiment"):
        learner.advance()
    assert not learner.registry.directory.exists()


def test_a_pattern_of_corrected_successes_is_learned_accepted_and_offered(tmp_path, origin):
    bank = bank_of(tmp_path, patterned())
    frozen = ROOT / "efn_ros" / "policies"
    before = contents(frozen, bank / "payloads", origin)
    text, candidate = Learner(bank, origin, CONFIG, RECALL).advance()
    registry, report = Registry(bank), candidate.report
    assert text.startswith("candidate 1 is offered: error") and report["accepted"]
    assert report["error"]["candidate"] < 0.5 * report["error"]["current"]
    assert report["error_all"]["candidate"] < report["error_all"]["current"]
    assert report["successes"] >= CONFIG.min_held_out_successes and report["rollouts"]["training"] + report["rollouts"][
        "held_out"
    ] == len(BankReader(bank).rollouts())
    # In shadow, it proposes in held-out decisions what succeeded there.
    assert np.allclose(report["change"]["mean"], np.abs(PATTERN), atol=0.1)
    assert [c.number for c in registry.offered()] == [1]
    assert registry.current().number == 0, "an offer does not switch"
    assert contents(frozen, bank / "payloads", origin) == before, "policy, bank and first checkpoint stay unchanged"


def test_by_the_rule_an_accepted_candidate_is_used_at_once_and_logged(tmp_path, origin):
    bank = bank_of(tmp_path, patterned())
    Learner(bank, origin, CONFIG, RECALL, rule="when accepted").advance()
    registry = Registry(bank)
    (entry,) = registry.switches()
    assert registry.current().number == 1 and (entry["from"], entry["to"], entry["who"]) == (0, 1, RULE)
    assert entry["why"].startswith("error")


def test_without_a_pattern_no_candidate_is_offered(tmp_path, origin):
    rng = np.random.default_rng(0)
    noise = (rollout(i, rng.uniform(-0.3, 0.3, (6, 3))) for i in range(30))
    text, candidate = Learner(bank_of(tmp_path, noise), origin, CONFIG, RECALL, rule="when accepted").advance()
    registry = Registry(tmp_path / "bank")
    assert text.startswith("candidate 1 was rejected: error") and not candidate.report["accepted"]
    assert registry.offered() == [] and registry.current().number == 0 and registry.switches() == []
    with pytest.raises(ValueError, match="checkpoint 1 was rejected: error"):
        registry.switch(1)


def test_successes_of_the_base_alone_train_no_candidate(tmp_path, origin):
    """A zero residual is optimal in these decisions, but not in the failures that are not among them."""
    random_efn(origin).save_pretrained(origin)
    alone = (rollout(i, 0.0, mode=Mode.BASE) for i in range(20))
    text, _ = Learner(bank_of(tmp_path, alone), origin, CONFIG, RECALL).advance()
    assert text == "nothing to validate yet: 0 of 4 held-out successes that were corrected"


def test_missing_rollouts_are_reported_and_a_growing_bank_is_learned_from(tmp_path, origin):
    bank, made = tmp_path / "bank", list(patterned(40))
    learner = Learner(bank, origin, CONFIG, RECALL)
    assert learner.advance() == ("nothing to validate yet: 0 of 5 rollouts since the last candidate", None)
    store(bank, made[:6])
    text, _ = learner.advance()
    assert text.startswith("nothing to validate yet:") and text.endswith("of 4 held-out successes that were corrected")
    store(bank, made[6:30])
    assert learner.advance()[1].report["revision"] == 30
    assert learner.advance()[0] == "nothing to validate yet: 0 of 5 rollouts since the last candidate"
    store(bank, made[30:36])
    second = learner.advance()[1]
    assert (second.number, second.report["revision"], second.report["parent"]["number"]) == (2, 36, 0)


# Repetition, interruption and kills


def test_the_same_bank_and_seed_give_the_same_candidate(tmp_path, origin):
    found = []
    for name in ("a", "b"):
        learner = Learner(bank_of(tmp_path, patterned(), name), origin, replace(CONFIG, epochs=2), RECALL)
        _, candidate = learner.advance()
        found.append((candidate.fingerprint, candidate.report["error"], candidate.report["losses"]))
    assert found[0] == found[1]


class Interrupted(Exception):
    pass


def interrupt_after(units: int):
    """Return a `pause` that interrupts after some pieces of work."""

    def pause():
        nonlocal units
        units -= 1
        if units < 0:
            raise Interrupted

    return pause


def test_an_interrupted_training_resumes_to_the_same_candidate_though_the_bank_has_grown(tmp_path, origin):
    config, made = replace(CONFIG, epochs=3), list(patterned(34))
    _, whole = Learner(bank_of(tmp_path, made[:30], "whole"), origin, config, RECALL).advance()
    bank = bank_of(tmp_path, made[:30])
    state = bank / "efn" / learning.STATE
    for units in (0, 5, 33, 40):
        with pytest.raises(Interrupted):
            Learner(bank, origin, config, RECALL, pause=interrupt_after(units)).advance()
    assert state.exists(), "an interrupted training leaves a state"
    store(bank, made[30:])
    reports: list[str] = []
    _, candidate = Learner(bank, origin, config, RECALL, report=reports.append).advance()
    assert candidate.fingerprint == whole.fingerprint and candidate.report["revision"] == 30
    assert not any("epoch" in text for text in reports), "finished epochs are not repeated"
    assert not state.exists()


def test_a_training_from_another_checkpoint_is_restarted(tmp_path, origin):
    bank, config = bank_of(tmp_path, patterned()), replace(CONFIG, epochs=2)
    first = Learner(bank, origin, config, RECALL).advance()[1]
    store(bank, patterned(10, first=30))
    with pytest.raises(Interrupted):
        Learner(bank, origin, config, RECALL, pause=interrupt_after(50)).advance()
    Registry(bank).switch(first.number)
    assert Learner(bank, origin, config, RECALL).advance()[1].report["parent"]["number"] == first.number


KILLED = """
import sys
sys.path.append({here!r})
import sample_work
from sample_work import CONFIG, RECALL
from efn_ros.online.learner import Learner
Learner({bank!r}, {origin!r}, CONFIG, RECALL, report=lambda text: print(text, flush=True)).advance()
"""


def test_a_learner_killed_at_random_moments_trains_the_same_candidate(tmp_path, origin):
    bank = bank_of(tmp_path, patterned())
    script = KILLED.format(here=str(Path(sample_work.__file__).parent), bank=str(bank), origin=str(origin))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    delays = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        process.stdout.readline()  # it has started
        time.sleep(delays.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        registry = Registry(bank)
        assert registry.current().number == 0 and fingerprint(registry.current().path) == fingerprint(origin)
    Learner(bank, origin, CONFIG, RECALL).advance()
    _, whole = Learner(bank_of(tmp_path, patterned(), "whole"), origin, CONFIG, RECALL).advance()
    assert Registry(bank).checkpoints()[1].fingerprint == whole.fingerprint


def test_a_learner_stops_between_two_pieces_of_work(tmp_path, origin):
    throttle = Throttle()
    throttle.end()
    with pytest.raises(Stopped):
        Learner(bank_of(tmp_path, patterned()), origin, CONFIG, RECALL, pause=throttle).advance()


def test_a_report_is_json_that_a_script_can_read(tmp_path, origin):
    bank = bank_of(tmp_path, patterned())
    _, candidate = Learner(bank, origin, replace(CONFIG, epochs=1), RECALL).advance()
    report = json.loads((candidate.path / "report.json").read_text())
    assert report == candidate.report and len(report["losses"]) == 1
    assert {len(report["change"][name]) for name in ("mean", "largest", "bound")} == {3}
