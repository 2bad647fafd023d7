"""Learning at work: what is learnt from, what is recalled for it, what must be proven, and what never changes."""

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
import torch
from sample_work import CONFIG, PATTERN, RECALL, checkpoint, patterned, remember, rollout

from efn_ros.bank import BankReader
from efn_ros.correction.learned import LearnedResidual
from efn_ros.correction.registry import RULE, Registry, fingerprint
from efn_ros.efn.actor import Efn
from efn_ros.online import learner as learning
from efn_ros.online.acceptance import prove
from efn_ros.online.config import LearnConfig
from efn_ros.online.learner import Learner
from efn_ros.online.throttle import Stopped, Throttle
from efn_ros.retrieval import Retriever
from efn_ros.training.bank_dataset import Lessons, is_held_out
from efn_ros.types import Mode, Outcome

ROOT = Path(learning.__file__).parents[2]


@pytest.fixture
def origin(tmp_path):
    return checkpoint(tmp_path / "origin")


def bank_of(tmp_path, rollouts, name="bank"):
    return remember(tmp_path / name, rollouts)


def speaking(directory) -> Efn:
    """A network that says something: an untrained head proposes nothing."""
    efn = Efn.from_pretrained(directory)
    torch.manual_seed(1)
    torch.nn.init.normal_(efn.head.weight, std=0.3)
    return efn


def contents(*directories) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for directory in directories
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# Lessons


def test_what_is_recalled_is_never_of_the_own_rollout_and_never_held_out_in_lessons(tmp_path, origin):
    rollouts = BankReader(bank_of(tmp_path, patterned(12))).snapshot().rollouts
    efn = Efn.from_pretrained(origin)
    held_out = [r for r in rollouts if is_held_out(r.record.id, 0.3)]
    learnt = [r for r in rollouts if r not in held_out]
    assert held_out and learnt
    for taught, memory in ((learnt, learnt), (held_out, rollouts)):
        lessons = Lessons(taught, memory, RECALL, efn)
        assert len(lessons) == 6 * len(taught)
        for i in range(len(lessons)):
            own, recalled = taught[lessons.rollout[i]].record.id, lessons.recalled_rollouts(i)
            assert recalled and own not in recalled
            assert recalled <= {r.record.id for r in memory}


def test_a_lesson_is_what_the_corrector_would_have_said_at_work_without_that_rollout(tmp_path, origin):
    made = list(patterned(8))
    rollouts = BankReader(bank_of(tmp_path, made)).snapshot().rollouts
    without = Retriever(BankReader(bank_of(tmp_path, made[:2] + made[3:], "without")), RECALL)
    speaking(origin).save_pretrained(origin)
    at_work = LearnedResidual(origin, gain=0.5)
    lessons = Lessons(rollouts, rollouts, RECALL, Efn.from_pretrained(origin))
    said = lessons.residuals(Efn.from_pretrained(origin), 0.5, batch=7)[lessons.rollout == 2]
    for row, step in enumerate(made[2].steps):
        context = replace(step.policy_step.context, episode_id="another", seed=made[2].seed)
        query = replace(step.policy_step, context=context)
        expected, reason, _ = at_work(query, without.recall(query))
        assert not reason
        np.testing.assert_allclose(said[row], expected, atol=1e-6)


def test_targets_are_what_was_added_and_zero_where_the_base_alone_succeeded(tmp_path, origin):
    made = [rollout(0, PATTERN), rollout(1, 0.2, mode=Mode.BASE), rollout(2, PATTERN, Outcome.FAILURE)]
    made.append(rollout(3, PATTERN, mode=Mode.HOLD))
    rollouts = BankReader(bank_of(tmp_path, made)).snapshot().rollouts
    lessons = Lessons(rollouts, rollouts, RECALL, Efn.from_pretrained(origin))
    assert set(lessons.rollout) == {0, 1, 2}, "a hold teaches nothing"
    weight = lessons.weight(0.25)
    for index, target, expected in ((0, PATTERN, 1.0), (1, 0.0, 0.25), (2, PATTERN, 0.0)):
        of = lessons.rollout == index
        np.testing.assert_allclose(lessons.target[of], np.broadcast_to(target, lessons.target[of].shape), atol=1e-6)
        assert set(weight[of].tolist()) == {expected}


def test_a_rollout_stays_on_its_side_whatever_the_bank_holds_and_its_share_is_kept():
    sides = [is_held_out(f"rollout-{i}", 0.25) for i in range(4000)]
    assert sides == [is_held_out(f"rollout-{i}", 0.25) for i in range(4000)]
    assert 0.22 < np.mean(sides) < 0.28
    assert all(is_held_out(f"rollout-{i}", 0.5) for i in range(4000) if sides[i]), "a larger share only adds"


def test_a_bank_of_another_policy_is_refused_by_name(tmp_path):
    bank = bank_of(tmp_path, patterned())
    learner = Learner(bank, checkpoint(tmp_path / "other", latent=(4, 12)), CONFIG, RECALL)
    with pytest.raises(ValueError, match=r"latent in the bank has shape \(4, 10\); the EFN takes \(4, 12\)"):
        learner.advance()


@pytest.mark.parametrize("name, value", [("held_out", 1.0), ("margin", 0.0), ("kept", 0), ("most_change", -1.0)])
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
        LearnConfig(**{name: value})


def test_a_checkpoint_that_changes_latent_tokens_is_refused_before_anything_is_written(tmp_path):
    latent = checkpoint(tmp_path / "latent", space="latent", latent_bound=(1.0,) * 10)
    learner = Learner(bank_of(tmp_path, patterned(8)), latent, CONFIG, RECALL)
    with pytest.raises(ValueError, match="has space 'latent', but learning at work needs a residual on the action"):
        learner.advance()
    assert not learner.registry.directory.exists()


# What comes of it


def test_a_pattern_of_corrected_successes_is_learnt_proven_and_offered(tmp_path, origin):
    bank = bank_of(tmp_path, patterned())
    frozen = ROOT / "efn_ros" / "policies"
    before = contents(frozen, bank / "payloads", origin)
    said, candidate = Learner(bank, origin, CONFIG, RECALL).advance()
    registry, report = Registry(bank), candidate.report
    assert said.startswith("candidate 1 is offered: error") and report["proven"]
    assert report["error"]["candidate"] < 0.5 * report["error"]["current"]
    assert report["error_all"]["candidate"] < report["error_all"]["current"]
    assert report["successes"] >= CONFIG.least_held_out and report["rollouts"]["learnt"] + report["rollouts"][
        "held_out"
    ] == len(BankReader(bank).rollouts())
    # In shadow, it does on held-out decisions what succeeded there.
    assert np.allclose(report["change"]["mean"], np.abs(PATTERN), atol=0.1)
    assert [c.number for c in registry.offered()] == [1]
    assert registry.current().number == 0, "nobody has switched yet"
    assert contents(frozen, bank / "payloads", origin) == before, "what is frozen, and what is remembered, stay"


def test_by_the_rule_what_is_proven_is_used_at_once_and_the_log_says_so(tmp_path, origin):
    bank = bank_of(tmp_path, patterned())
    Learner(bank, origin, CONFIG, RECALL, rule="when proven").advance()
    registry = Registry(bank)
    (entry,) = registry.switches()
    assert registry.current().number == 1 and (entry["from"], entry["to"], entry["who"]) == (0, 1, RULE)
    assert entry["why"].startswith("error")


def test_where_there_is_nothing_to_learn_nothing_is_offered(tmp_path, origin):
    rng = np.random.default_rng(0)
    noise = (rollout(i, rng.uniform(-0.3, 0.3, (6, 3))) for i in range(30))
    said, candidate = Learner(bank_of(tmp_path, noise), origin, CONFIG, RECALL, rule="when proven").advance()
    registry = Registry(tmp_path / "bank")
    assert said.startswith("candidate 1 was rejected: error") and not candidate.report["proven"]
    assert registry.offered() == [] and registry.current().number == 0 and registry.switches() == []
    with pytest.raises(ValueError, match="checkpoint 1 was rejected: error"):
        registry.switch(1)


def test_where_the_base_alone_succeeds_no_network_learns_to_be_silent(tmp_path, origin):
    """Silence would be right in every one of these decisions, and wrong in the failures that are not among them."""
    speaking(origin).save_pretrained(origin)
    alone = (rollout(i, 0.0, mode=Mode.BASE) for i in range(20))
    said, _ = Learner(bank_of(tmp_path, alone), origin, CONFIG, RECALL).advance()
    assert said == "nothing to prove yet: 0 of 4 held-out successes that were corrected"


def test_a_candidate_that_is_worse_or_changes_too_much_is_never_proven(tmp_path, origin):
    rollouts = BankReader(bank_of(tmp_path, patterned(12))).snapshot().rollouts
    silent, loud = Efn.from_pretrained(origin), speaking(origin)
    lessons = Lessons(rollouts, rollouts, RECALL, silent)
    worse = prove(silent, loud, lessons, CONFIG, 1.0)
    assert not worse["proven"] and worse["error"]["candidate"] > worse["error"]["current"]
    good = Efn.from_pretrained(origin)
    with torch.no_grad():
        good.head.bias[: 4 * 3] = torch.atanh(torch.from_numpy(PATTERN).repeat(4) / good.bound.repeat(4))
    assert prove(silent, good, lessons, CONFIG, 1.0)["reason"].startswith("error 0.")
    assert not prove(silent, silent, lessons, CONFIG, 1.0)["proven"], "the same is not better"
    bounded = prove(silent, good, lessons, replace(CONFIG, most_change=0.2), 1.0)
    assert not bounded["proven"] and "a decision changes by 0." in bounded["reason"]
    few = prove(silent, good, lessons, replace(CONFIG, least_held_out=100), 1.0)
    assert not few["proven"] and "10 of 100 held-out successes that were corrected" in few["reason"]


def test_what_gains_on_one_kind_of_success_at_the_cost_of_the_other_is_no_proof(tmp_path, origin):
    made = [rollout(i, PATTERN) for i in range(4)] + [rollout(i, 0.0, mode=Mode.BASE) for i in range(4, 20)]
    rollouts = BankReader(bank_of(tmp_path, made)).snapshot().rollouts
    silent, always = Efn.from_pretrained(origin), Efn.from_pretrained(origin)
    with torch.no_grad():
        always.head.bias[: 4 * 3] = torch.atanh(torch.from_numpy(PATTERN).repeat(4) / always.bound.repeat(4))
    lessons = Lessons(rollouts, rollouts, RECALL, silent)
    quieter, louder = prove(always, silent, lessons, CONFIG, 1.0), prove(silent, always, lessons, CONFIG, 1.0)
    assert quieter["error_all"]["candidate"] < quieter["error_all"]["current"]
    assert not quieter["proven"] and quieter["reason"].startswith("error 0.0000 -> 0.")
    assert louder["error"]["candidate"] < louder["error"]["current"]
    assert not louder["proven"] and "worse where the base alone succeeded" in louder["reason"]


def test_too_little_is_said_in_words_and_a_growing_bank_is_followed(tmp_path, origin):
    bank, made = tmp_path / "bank", list(patterned(40))
    learner = Learner(bank, origin, CONFIG, RECALL)
    assert learner.advance() == ("nothing to prove yet: 0 of 5 rollouts since the last candidate", None)
    remember(bank, made[:6])
    said, _ = learner.advance()
    assert said.startswith("nothing to prove yet:") and said.endswith("of 4 held-out successes that were corrected")
    remember(bank, made[6:30])
    assert learner.advance()[1].report["revision"] == 30
    assert learner.advance()[0] == "nothing to prove yet: 0 of 5 rollouts since the last candidate"
    remember(bank, made[30:36])
    second = learner.advance()[1]
    assert (second.number, second.report["revision"], second.report["parent"]["number"]) == (2, 36, 0)


# The same again, and after a kill


def test_the_same_bank_and_seed_give_the_same_candidate(tmp_path, origin):
    found = []
    for name in ("a", "b"):
        learner = Learner(bank_of(tmp_path, patterned(), name), origin, replace(CONFIG, epochs=2), RECALL)
        _, candidate = learner.advance()
        found.append((candidate.fingerprint, candidate.report["error"], candidate.report["losses"]))
    assert found[0] == found[1]


class Cut(Exception):
    pass


def cut_after(units: int):
    """Stands for a kill between two pieces of work."""

    def pause():
        nonlocal units
        units -= 1
        if units < 0:
            raise Cut

    return pause


def test_cut_off_anywhere_and_gone_on_with_it_ends_the_same_though_the_bank_has_grown(tmp_path, origin):
    config, made = replace(CONFIG, epochs=3), list(patterned(34))
    _, whole = Learner(bank_of(tmp_path, made[:30], "whole"), origin, config, RECALL).advance()
    bank = bank_of(tmp_path, made[:30])
    state = bank / "efn" / learning.STATE
    for units in (0, 5, 33, 40):
        with pytest.raises(Cut):
            Learner(bank, origin, config, RECALL, pause=cut_after(units)).advance()
    assert state.exists(), "no epoch was finished: nothing is shown"
    remember(bank, made[30:])
    told: list[str] = []
    _, candidate = Learner(bank, origin, config, RECALL, tell=told.append).advance()
    assert candidate.fingerprint == whole.fingerprint and candidate.report["revision"] == 30
    assert not any("epoch" in text for text in told), "what was done is not done again"
    assert not state.exists()


def test_what_was_begun_from_another_checkpoint_is_begun_anew(tmp_path, origin):
    bank, config = bank_of(tmp_path, patterned()), replace(CONFIG, epochs=2)
    first = Learner(bank, origin, config, RECALL).advance()[1]
    remember(bank, patterned(10, first=30))
    with pytest.raises(Cut):
        Learner(bank, origin, config, RECALL, pause=cut_after(50)).advance()
    Registry(bank).switch(first.number)
    assert Learner(bank, origin, config, RECALL).advance()[1].report["parent"]["number"] == first.number


KILLED = """
import sys
sys.path.append({here!r})
import sample_work
from sample_work import CONFIG, RECALL
from efn_ros.online.learner import Learner
Learner({bank!r}, {origin!r}, CONFIG, RECALL, tell=lambda text: print(text, flush=True)).advance()
"""


def test_killed_at_random_moments_the_learner_comes_to_the_same_end(tmp_path, origin):
    bank = bank_of(tmp_path, patterned())
    script = KILLED.format(here=str(Path(sample_work.__file__).parent), bank=str(bank), origin=str(origin))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    delays = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        process.stdout.readline()  # it is at work
        time.sleep(delays.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        registry = Registry(bank)
        assert registry.current().number == 0 and fingerprint(registry.current().path) == fingerprint(origin)
    Learner(bank, origin, CONFIG, RECALL).advance()
    _, whole = Learner(bank_of(tmp_path, patterned(), "whole"), origin, CONFIG, RECALL).advance()
    assert Registry(bank).checkpoints()[1].fingerprint == whole.fingerprint


# The machine is the robot's


def test_while_an_episode_runs_it_takes_its_share_or_waits(monkeypatch):
    throttle, waited = Throttle(0.25), []
    monkeypatch.setattr(throttle, "wait", waited.append)
    monkeypatch.setattr(learning.time, "monotonic", lambda: throttle._began + 2.0)
    throttle()
    throttle.busy = True
    throttle()
    assert waited == [0.0, pytest.approx(6.0)]
    throttle = Throttle(0.0)
    throttle.busy, looks = True, []

    def look(seconds):
        looks.append(seconds)
        throttle.busy = len(looks) < 3

    monkeypatch.setattr(throttle, "wait", look)
    throttle()
    assert looks == [Throttle.LOOK_S] * 3 + [0.0]


def test_it_ends_between_two_pieces_of_work(tmp_path, origin):
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
