# SPDX-License-Identifier: MIT
"""Paired evaluation: which scene is run under which condition, the intervals, and a run that is resumed."""

import dataclasses
import json
import math
from concurrent.futures import Executor, Future

import numpy as np
import pytest
import scipy.stats
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.bank import BankReader
from efn_ros.bank.store.snapshot import FirstRollouts
from efn_ros.commands.evaluate import _variants
from efn_ros.commands.main import main
from efn_ros.evaluation import (
    BASE,
    MEMORY,
    Condition,
    EvaluatedEpisode,
    Job,
    TrainedDeploymentError,
    compare,
    comparisons,
    plan,
)
from efn_ros.evaluation import evaluate as run_all
from efn_ros.evaluation.banks import BankFill, fill_bank
from efn_ros.evaluation.episodes import read
from efn_ros.evaluation.plan import (
    AS_TRAINED_MEMORY,
    NO_MEMORY,
    OTHER_MEMORY,
    RECALLED_ACTION,
    SCENES,
    bank_scene,
    scene,
)
from efn_ros.evaluation.run import run_job
from efn_ros.evaluation.statistics import draw_counts
from efn_ros.report.blocks.evaluation import evaluation_block
from efn_ros.resources import config_directory
from efn_ros.runtime.graph import Graph
from efn_ros.types import Mode
from efn_ros.worlds.deployment import sample_strengths

BASES = Condition(BASE, correct=False)


def episode(seed, condition=BASE, success=False, task="reach", deployment=0, volume=0, shifts=(), **values):
    values = {"length": 100, "residual": 0.0, "corrected": 0.0, "confidence": 0.0, "trust": 1.0, **values}
    return EvaluatedEpisode(deployment, dict(shifts), task, condition, volume, seed, bool(success), **values)


def pairs(*outcomes, condition=MEMORY, volume=5, **values):
    """Episodes of the base and under a condition, from (base succeeded, it succeeded) for each seed."""
    for seed, (before, after) in enumerate(outcomes):
        yield episode(seed, BASE, before, **values)
        yield episode(seed, condition, after, volume=volume, **values)


def gain(episodes, resamples=10_000):
    return compare(episodes, MEMORY, 5, resamples=resamples)


# Plans


def conditions(job):
    return [(c.name, c.volume, c.bank) for c in job.conditions]


def test_a_deployment_is_run_with_the_base_with_every_volume_and_with_the_controls_at_the_largest():
    jobs = plan("metaworld_sim", ["reach", "push"], [3, 4], volumes=(5, 0, 2, 5), variants={"recall": "recall.yaml"})
    assert [(job.deployment, job.task) for job in jobs] == [(3, "reach"), (3, "push"), (4, "reach"), (4, "push")]
    memory = [(MEMORY, volume, 3) for volume in (0, 2, 5)]
    assert conditions(jobs[0]) == [
        (BASE, 0, None),
        *memory,
        ("recall", 5, 3),
        (OTHER_MEMORY, 5, 4),
        (AS_TRAINED_MEMORY, 5, None),
    ]
    assert [c.name for c in jobs[0].conditions if not c.correct] == [BASE]
    assert [c.overlays for c in jobs[0].conditions if c.overlays] == [("recall.yaml",)]


def test_the_other_memory_is_that_of_the_next_deployment_and_never_of_the_same():
    def other(*deployments):
        jobs = plan("metaworld_sim", ["reach"], deployments)
        return [(job.deployment, c.bank) for job in jobs for c in job.conditions if c.name == OTHER_MEMORY]

    assert other(0, 1, 2) == [(0, 1), (1, 2), (2, 0)]
    assert other(7) == [(7, 8)] and other(9999) == [(9999, 0)]
    assert other(None) == [(None, 0)]


def test_as_trained_there_is_no_control_with_the_memory_of_the_base_as_trained():
    (job,) = plan("metaworld_sim", ["reach"], [None], volumes=(1,))
    assert conditions(job) == [(BASE, 0, None), (MEMORY, 1, None), (OTHER_MEMORY, 1, 0)]


def test_memory_from_work_is_run_at_every_volume_with_a_bank_of_its_own():
    (job,) = plan("metaworld_sim", ["reach"], [3], volumes=(0, 1, 2), working={"memory from work": "work.yaml"})
    working = [c for c in job.conditions if c.work]
    assert working == [Condition("memory from work", volume, 3, ("work.yaml",), work=True) for volume in (1, 2)]


def test_volume_zero_has_no_controls():
    (job,) = plan("metaworld_sim", ["reach"], [0], volumes=(0,), variants={"recall": "recall.yaml"})
    assert conditions(job) == [(BASE, 0, None), (MEMORY, 0, 0)]


@pytest.mark.parametrize("seed", [10_000, 123_456, -1])
def test_deployments_of_training_are_refused(seed):
    with pytest.raises(TrainedDeploymentError, match=f"deployment {seed} is not held out.*from 0 to 9999"):
        plan("metaworld_sim", ["reach"], [0, seed])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"volumes": ()}, "volumes are"),
        ({"volumes": (1, -1)}, r"volumes are \[1, -1\].*none below 0"),
        ({"variants": {OTHER_MEMORY: "w.yaml"}}, "'other memory' is taken"),
        ({"working": {MEMORY: "w.yaml"}}, "'memory' is taken"),
        ({"variants": {"w": "w.yaml"}, "working": {"w": "w.yaml"}}, "'w' is taken"),
        ({"episodes": 0}, "0 episodes"),
    ],
)
def test_an_impossible_plan_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        plan("metaworld_sim", ["reach"], [0], **changes)


def test_scenes_that_fill_banks_are_never_evaluated_and_deployments_have_their_own():
    evaluated = [{scene(d, i) for i in range(1000)} for d in range(50)]
    filling = [{bank_scene(d, i) for i in range(1000)} for d in range(50)]
    assert len(set().union(*evaluated)) == len(set().union(*filling)) == SCENES
    assert not set().union(*evaluated) & set().union(*filling)
    assert max(bank_scene(9999, i) for i in range(1000)) < 100_000, "policies are trained on scenes from 100 000 on"
    assert [scene(None, i) for i in range(3)] == [0, 1, 2]


# Comparisons


def test_scenes_that_memory_fixed_and_broke_are_counted():
    found = gain(pairs((0, 0), (0, 1), (0, 1), (1, 0), (1, 1)))
    assert (found.pairs, found.fixed, found.broke) == (5, 2, 1)
    assert (found.base.value, found.success.value) == (pytest.approx(2 / 5), pytest.approx(3 / 5))
    assert found.difference.value == pytest.approx(1 / 5)
    assert found.removed.value == pytest.approx((3 - 2) / 3)


def test_only_scenes_run_under_both_with_this_volume_are_compared():
    unpaired = [episode(8, BASE, True), episode(9, MEMORY, True, volume=5), *pairs((0, 0), volume=2, task="push")]
    found = gain([*unpaired, *pairs((1, 1), (0, 1))])
    assert (found.pairs, found.base.value, found.success.value) == (2, 0.5, 1.0)


def test_the_same_seed_in_another_deployment_or_task_is_another_scene():
    episodes = [
        *pairs((0, 1)),
        *pairs((1, 1), task="push"),
        *pairs((1, 0), deployment=1),
        *pairs((0, 0), deployment=None),
    ]
    found = gain(episodes)
    assert (found.pairs, found.fixed, found.broke) == (4, 1, 1)


def test_no_scene_run_under_both_is_no_comparison():
    with pytest.raises(ValueError, match="no scene was run both by the base and under 'memory' with a memory of 5"):
        gain([episode(8, BASE, True)])


def test_no_failures_are_removed_if_the_base_never_fails():
    found = gain(pairs((1, 1), (1, 0)))
    assert found.removed is None and found.broke == 1


def test_steps_are_those_of_scenes_where_both_succeeded():
    def episodes(seed, *lengths):
        """Lengths of base and memory; None is a failure."""
        for condition, volume, length in zip((BASE, MEMORY), (0, 5), lengths, strict=True):
            yield episode(
                seed, condition, length is not None, volume=volume, length=length or 200, residual=0.1 * volume
            )

    found = gain([*episodes(0, 40, 20), *episodes(1, 60, 50), *episodes(2, None, 30), *episodes(3, 90, None)])
    assert (found.base_steps, found.steps) == (50, 35)
    assert found.residual == pytest.approx(0.5)
    never = gain([*episodes(0, None, 30), *episodes(1, 90, None)])
    assert never.steps is None and never.base_steps is None


@pytest.mark.parametrize("outcome, difference", [((0, 1), 1), ((1, 0), -1), ((1, 1), 0), ((0, 0), 0)])
def test_the_interval_of_equal_outcomes_is_a_point(outcome, difference):
    found = gain(pairs(*[outcome] * 7))
    assert dataclasses.astuple(found.difference) == (difference,) * 3
    assert found.removed is None or dataclasses.astuple(found.removed) == (difference,) * 3


def binomial_interval(fixed, count):
    """Quantiles of the mean of `count` pairs drawn with replacement, of which a share was fixed, in closed form."""
    return scipy.stats.binom.ppf((0.025, 0.975), count, fixed / count) / count


@pytest.mark.parametrize("fixed, count", [(10, 20), (3, 12), (40, 50)])
@pytest.mark.parametrize("level", ["deployment", "scene"])
def test_with_branches_at_one_level_only_the_interval_is_that_of_the_binomial_distribution(level, fixed, count):
    outcomes = [(0, 1)] * fixed + [(0, 0)] * (count - fixed)
    if level == "scene":
        episodes = list(pairs(*outcomes))
    else:
        episodes = [e for d, outcome in enumerate(outcomes) for e in pairs(outcome, deployment=d)]
    found = gain(episodes)
    assert (found.difference.low, found.difference.high) == pytest.approx(binomial_interval(fixed, count))
    assert found.removed == found.difference, "the base always fails"


def test_the_flat_case_is_the_paired_bootstrap():
    rng = np.random.default_rng(1)
    outcomes = rng.random((80, 2)) < (0.6, 0.8)
    found = gain([e for d, pair in enumerate(outcomes) for e in pairs(pair, deployment=d)])
    before, after = outcomes.T.astype(float)

    def removed(base, memory, axis=-1):
        return (memory - base).sum(axis) / (1 - base).sum(axis)

    for estimate, statistic in (
        (found.success, lambda base, memory, axis=-1: memory.mean(axis)),
        (found.difference, lambda base, memory, axis=-1: (memory - base).mean(axis)),
        (found.removed, removed),
    ):
        expected = scipy.stats.bootstrap(
            (before, after), statistic, paired=True, method="percentile", n_resamples=10_000, rng=2
        ).confidence_interval
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=0.03)
        assert estimate.value == pytest.approx(statistic(before, after))


def test_correlated_failures_widen_the_interval():
    """Ten scenes of a deployment with the same outcome count as one: the interval is that of deployments."""
    outcomes = [(0, 1)] * 6 + [(0, 0)] * 6
    together = gain([e for d, pair in enumerate(outcomes) for e in pairs(*[pair] * 10, deployment=d)])
    assert (together.difference.low, together.difference.high) == pytest.approx(binomial_interval(6, 12))
    apart = gain([e for d, pair in enumerate(outcomes * 10) for e in pairs(pair, deployment=d)])
    assert apart.difference.low > together.difference.low and apart.difference.high < together.difference.high


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 2)), min_size=1, unique=True))
def test_a_resample_draws_as_many_of_each_branch_as_there_are_in_the_mean(keys):
    keys = tuple(sorted(keys))
    draws = draw_counts(keys, 2000)
    assert draws.shape == (2000, len(keys)) and draws.min() >= 0
    assert draws.mean(axis=0) == pytest.approx(np.ones(len(keys)), abs=0.35)


def test_a_resample_of_equal_branches_has_as_many_pairs_as_there_are():
    keys = tuple((deployment, task, seed) for deployment in range(3) for task in "ab" for seed in range(4))
    draws = draw_counts(keys, 100)
    assert (draws.sum(axis=1) == len(keys)).all()
    by_task = draws.reshape(100, 6, 4).sum(axis=2)
    assert (by_task % 4 == 0).all(), "a task that is drawn is drawn with all its scenes' number"


scenes = st.tuples(st.integers(0, 3), st.sampled_from(["reach", "push"]), st.integers(0, 3))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(scenes, st.tuples(st.booleans(), st.booleans()), min_size=1), st.randoms())
def test_a_comparison_does_not_depend_on_the_order_of_episodes(outcomes, random):
    episodes = []
    for (deployment, task, seed), (before, after) in outcomes.items():
        episodes.append(episode(seed, BASE, before, task, deployment))
        episodes.append(episode(seed, MEMORY, after, task, deployment, volume=5))
    found = gain(episodes, resamples=200)
    random.shuffle(episodes)
    assert gain(episodes, resamples=200) == found
    assert found.difference.value == pytest.approx((found.fixed - found.broke) / found.pairs)
    failures = sum(not before for before, _ in outcomes.values())
    assert (
        found.removed is None
        if not failures
        else found.removed.value * failures == pytest.approx(found.fixed - found.broke)
    )
    for estimate in filter(None, (found.base, found.success, found.difference, found.removed)):
        assert estimate.low <= estimate.high


def test_every_condition_is_compared_over_all_scenes_by_task_and_by_kind_of_shift():
    episodes = [
        *pairs((0, 1), (0, 1), deployment=0, shifts={"yaw": 1.0, "gain": 0.5}),
        *pairs((1, 0), task="push", deployment=1, shifts={"gain": 0.4}),
        *pairs((1, 0), task="push", deployment=1, shifts={"gain": 0.4}, condition=OTHER_MEMORY),
    ]
    found = comparisons([e for e in episodes if e.condition != OTHER_MEMORY], resamples=100)
    summary = {(c.group, c.of): (c.pairs, c.fixed, c.broke) for c in found if c.condition == MEMORY}
    assert summary == {
        ("all", ""): (3, 2, 1),
        ("task", "reach"): (2, 2, 0),
        ("task", "push"): (1, 0, 1),
        ("shift", "gain"): (3, 2, 1),
        ("shift", "yaw"): (2, 2, 0),
    }
    assert [c.condition for c in found if c.group == "all"] == [BASE, MEMORY]
    base = found[0]
    assert (base.base, base.fixed, base.broke, base.difference.high) == (base.success, 0, 0, 0)


# Schedules


class Scheduled(Executor):
    """Runs no simulation: every job returns the episodes of its plan, all of them failures."""

    def __init__(self, failing=()):
        self.calls, self.failing = [], failing

    @property
    def jobs(self):
        return [(call.deployment, call.task) for call in self.calls if isinstance(call, Job)]

    @property
    def fills(self):
        return [call for call in self.calls if isinstance(call, BankFill)]

    def submit(self, fn, /, call, output):
        assert fn is (run_job if isinstance(call, Job) else fill_bank)
        self.calls.append(call)
        future = Future()
        if isinstance(call, BankFill):
            future.set_result(None)
        elif call.task in self.failing:
            future.set_exception(RuntimeError(f"{call.task} failed"))
        else:
            future.set_result([
                episode(scene(call.deployment, i), c.name, False, call.task, call.deployment, c.volume)
                for i in range(call.episodes)
                for c in call.conditions
            ])  # fmt: skip
        return future


TASKS = ("reach", "push")


def jobs(deployments=(0,), tasks=TASKS, **changes):
    return plan("metaworld_sim", tasks, deployments, **{"volumes": (2,), **changes})


def evaluate(jobs, output, failing=()):
    executor = Scheduled(failing)
    return run_all(jobs, output, executor), executor


def lines(output):
    return (output / "episodes.jsonl").read_text().splitlines()


def test_banks_are_filled_before_anything_reads_them_and_every_episode_is_written(tmp_path):
    episodes, executor = evaluate(jobs((0, 1), volumes=(1, 3)), tmp_path / "new" / "results")
    assert executor.calls[: len(executor.fills)] == executor.fills
    assert {(fill.deployment, fill.volume, fill.tasks) for fill in executor.fills} == {
        (bank, 3, ("push", "reach")) for bank in (0, 1, None)
    }
    assert executor.jobs == [(0, "reach"), (0, "push"), (1, "reach"), (1, "push")]
    assert len(episodes) == 2 * 2 * len(jobs(volumes=(1, 3))[0].conditions)
    assert sorted(json.dumps(dataclasses.asdict(e)) for e in episodes) == sorted(lines(tmp_path / "new" / "results"))


def test_the_base_alone_needs_no_bank(tmp_path):
    assert evaluate([Job("metaworld_sim", None, "reach", 1, (BASES,))], tmp_path)[1].fills == []


def test_a_second_run_adds_the_missing_episodes_and_runs_no_others(tmp_path):
    first, _ = evaluate(jobs(), tmp_path)
    both, executor = evaluate(jobs((0, 1)), tmp_path)
    assert executor.jobs == [(1, "reach"), (1, "push")]
    assert [e for e in both if e.deployment == 0 and e.condition != OTHER_MEMORY] == [
        e for e in first if e.condition != OTHER_MEMORY
    ]
    again, executor = evaluate(jobs((0, 1)), tmp_path)
    assert again == both and executor.calls == []


def test_a_new_condition_or_volume_is_all_that_is_run_of_a_job(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("")
    evaluate(jobs(), tmp_path / "out")
    _, executor = evaluate(jobs(volumes=(1, 2), variants={"mine": str(file)}), tmp_path / "out")
    assert [[(c.name, c.volume) for c in job.conditions] for job in executor.calls if isinstance(job, Job)] == [
        [(MEMORY, 1), ("mine", 2)]
    ] * 2


def test_an_episode_of_version_0_1_has_the_present_name_of_its_condition(tmp_path):
    log = tmp_path / "episodes.jsonl"
    log.write_text(json.dumps(dataclasses.asdict(episode(0, "wrong memory"))) + "\n")
    assert [e.condition for e in read(log)] == [OTHER_MEMORY]


def test_more_scenes_are_run_and_fewer_are_returned(tmp_path):
    evaluate(jobs(episodes=3), tmp_path)
    episodes, executor = evaluate(jobs(episodes=2), tmp_path)
    assert executor.calls == [] and {e.seed for e in episodes} == {0, 1}
    assert len(evaluate(jobs(episodes=4), tmp_path)[1].jobs) == 2


@pytest.mark.parametrize("left", [0, 1, 20, -1])
def test_an_episode_whose_line_is_missing_or_incomplete_is_run_again(tmp_path, left):
    evaluate(jobs(), tmp_path)
    whole = lines(tmp_path)
    torn = json.loads(whole[-1])
    (tmp_path / "episodes.jsonl").write_text("".join(line + "\n" for line in whole[:-1]) + whole[-1][:left])
    _, executor = evaluate(jobs(), tmp_path)
    (job,) = (call for call in executor.calls if isinstance(call, Job))
    assert (job.task, [c.name for c in job.conditions]) == (torn["task"], [torn["condition"]])
    assert sorted(lines(tmp_path)) == sorted(whole)


def test_a_run_after_a_failed_job_completes_the_plan(tmp_path):
    with pytest.raises(RuntimeError, match="push failed"):
        evaluate(jobs(), tmp_path, failing=("push",))
    whole, executor = evaluate(jobs(), tmp_path)
    assert (0, "push") in executor.jobs and len(lines(tmp_path)) == len(whole)


def test_a_directory_refuses_episodes_of_other_settings(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("a: 1"), second.write_text("a: 2")
    output = tmp_path / "out"
    evaluate(jobs(variants={"mine": str(first)}), output)
    evaluate(jobs(), output)  # without a condition that was run
    for other in (
        jobs(tasks=("reach",)),
        jobs(overlays=(first,)),
        jobs(variants={"mine": str(second)}),
        [dataclasses.replace(job, graph="another") for job in jobs()],
    ):
        with pytest.raises(ValueError, match="name another directory"):
            evaluate(other, output)
    first.write_text("a: 3")
    with pytest.raises(ValueError, match="name another directory"):
        evaluate(jobs(variants={"mine": str(first)}), output)


# Simulated episodes, with the packaged policy at one of its shortest tasks


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two banks of two rollouts."""
    output = tmp_path_factory.mktemp("evaluation")
    for deployment in (None, 4):
        for volume in (1, 2):  # the second call continues in the same bank
            fill_bank(BankFill("metaworld_sim", deployment, ("coffee-button",), volume), str(output))
    return output


def test_what_is_collected_at_work_is_another_bank_of_the_same_deployment(tmp_path):
    planned = jobs(working={"memory from work": "w.yaml"}, recurring=True, episodes=3, overlays=("all.yaml",))
    for file in ("w.yaml", "all.yaml"):
        (tmp_path / file).write_text("{}")
    executor = Scheduled()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        run_all(planned, tmp_path / "e", executor)
    common = {"graph": "metaworld_sim", "tasks": ("push", "reach"), "volume": 2, "scenes": 3}
    assert {fill.condition: fill for fill in executor.fills if fill.deployment == 0} == {
        "": BankFill(deployment=0, overlays=("all.yaml",), **common),
        "memory from work": BankFill(
            deployment=0, overlays=("all.yaml", "w.yaml"), condition="memory from work", **common
        ),
    }


@pytest.mark.simulator
def test_a_bank_of_work_holds_corrected_rollouts_of_recurring_scenes(tmp_path):
    exploring = tmp_path / "exploring.yaml"
    exploration = {"mode": "noise", "episode_fraction": 1.0, "max_confidence": 1.0}
    exploring.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": {"exploration": exploration}}}))
    fill_bank(
        BankFill("metaworld_sim", 4, ("coffee-button",), 3, (str(exploring),), "memory from work", 1), str(tmp_path)
    )
    rollouts = BankReader(tmp_path / "banks" / "4-memory-from-work").snapshot().rollouts
    assert [r.record.seed for r in rollouts] == [scene(4, 0)] * 3
    first, *others = (r.arrays for r in rollouts)
    assert (first.modes == Mode.BASE).all(), "the bank is still empty"
    assert all((arrays.modes == Mode.CORRECTED).any() for arrays in others)
    assert (others[0].executed[1] != others[1].executed[1]).any(), "exploration of one scene differs by rollout"


@pytest.mark.simulator
def test_a_bank_holds_rollouts_of_the_base_alone_on_scenes_of_its_own(filled):
    for deployment, name in ((None, "as-trained"), (4, "4")):
        rollouts = BankReader(filled / "banks" / name).snapshot().rollouts
        assert [r.record.seed for r in rollouts] == [bank_scene(deployment, i) for i in range(2)]
        assert all((r.arrays.residual == 0).all() for r in rollouts)


@pytest.mark.simulator
def test_recall_uses_the_first_rollouts_only(filled):
    reader = BankReader(filled / "banks" / "4")
    whole = reader.snapshot().rollouts
    for volume in (0, 1, 2):
        assert FirstRollouts(reader, volume).snapshot().rollouts == whole[:volume]


@pytest.mark.simulator
def test_a_scene_is_run_under_every_condition_and_not_stored(filled):
    planned = (BASES, Condition(MEMORY, 0, 4), Condition(MEMORY, 2, 4), Condition(AS_TRAINED_MEMORY, 2, None))
    base, empty, memory, nominal = run_job(Job("metaworld_sim", 4, "coffee-button", 1, planned), str(filled))
    assert [(e.condition, e.volume) for e in (base, empty, memory, nominal)] == [(c.name, c.volume) for c in planned]
    assert {e.seed for e in (base, empty, memory, nominal)} == {scene(4, 0)}
    assert base.shifts == pytest.approx(sample_strengths(4), abs=1e-3)
    assert dataclasses.replace(empty, condition=BASE) == base, "without a rollout to recall, memory is exactly the base"
    assert (base.residual, base.corrected, base.confidence) == (0, 0, 0)
    assert memory.corrected > 0 and memory.residual > 0 and memory.confidence > 0
    assert nominal.corrected > 0 and nominal.trust < memory.trust, "the base as trained moved another arm"
    assert len(BankReader(filled / "banks" / "4").rollouts()) == 2


@pytest.mark.simulator
def test_the_command_evaluates_and_writes_a_results_file(tmp_path, capsys):
    words = ["evaluate", "--setting", "as-trained", "--tasks", "coffee-button", "--volumes", "1", "--processes", "1"]
    overlay, results = tmp_path / "gain.yaml", tmp_path / "new" / "results.json"
    overlay.write_text(yaml.safe_dump({"/efn/efn_corrector": {"ros__parameters": {"gain": 0.0}}}))
    words += ["--output", str(tmp_path / "out"), "--results", str(results), "--ablation", f"still={overlay}"]
    assert main(words) == 0
    report = json.loads(results.read_text())
    episodes = [EvaluatedEpisode(**e) for e in report["episodes"]]
    assert [(e.condition, e.volume) for e in episodes] == [
        (BASE, 0),
        (MEMORY, 1),
        (RECALLED_ACTION, 1),
        ("still", 1),
        (OTHER_MEMORY, 1),
    ]
    assert {(e.deployment, e.seed) for e in episodes} == {(None, 0)}
    assert episodes[3].residual == 0 and episodes[3].length == episodes[0].length
    assert report["comparisons"] == [dataclasses.asdict(c) for c in comparisons(episodes)]
    assert evaluation_block(report) in capsys.readouterr().out
    assert not any(
        isinstance(value, float) and math.isnan(value) for c in report["comparisons"] for value in c.values()
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--first-seed", "9990"], "deployment 10000 is not held out"),
        (["--tasks", "juggle"], "unknown task juggle; there are reach"),
        (["--ablation", "mine"], "give NAME=FILE"),
        (["--ablation", "mine=/nowhere.yaml"], "give NAME=FILE"),
        (["--deployments", "0"], "0 deployments"),
        (["--params-file", str(config_directory() / "deployments" / "camera.yaml")], "give sim_bridge a deployment"),
    ],
)
def test_an_impossible_command_is_refused_with_a_reason(tmp_path, words, message):
    with pytest.raises(SystemExit, match=message):
        main(["evaluate", "--output", str(tmp_path), *words])


def test_controls_of_a_learned_correction_are_the_recalled_action_and_a_network_without_memory(tmp_path):
    checkpoint = tmp_path / "no_memory"
    variants = _variants(tmp_path, True, checkpoint, ())
    corrector = {
        name: Graph.load("metaworld_sim", [file]).parameters("efn_corrector") for name, file in variants.items()
    }
    assert corrector[RECALLED_ACTION]["method"] == "recalled_action"
    assert (corrector[NO_MEMORY]["method"], corrector[NO_MEMORY]["checkpoint"]) == ("learned", str(checkpoint))
    assert _variants(tmp_path, False, None, ()) == {}, "memory is the recalled action already"
