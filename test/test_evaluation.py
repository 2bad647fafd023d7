"""Paired evaluation: what is compared with what, the interval around it, and a run that goes on where it stopped."""

import dataclasses
import json
import math
from concurrent.futures import Executor, Future

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.bank import BankReader
from efn_ros.evaluation import BASE, MEMORY, REMEMBERED_SEED, Comparison, Episode, Job, compare, evaluate, run_job
from efn_ros.types import Outcome

JOB = Job("libero_sim", "as trained", "reach", episodes=2, remembered=1)


def episode(seed, way=BASE, success=False, task="reach", deployment="as trained", **values):
    values = {"length": 100, "residual": 0.0, "corrected": 0.0, "confidence": 0.0, **values}
    return Episode(deployment, task, way, seed, success, **values)


def pairs(*outcomes, **values):
    """Episodes of both ways, from (base succeeded, memory succeeded) for each seed."""
    for seed, successes in enumerate(outcomes):
        for way, success in zip((BASE, MEMORY), successes, strict=True):
            yield episode(seed, way, bool(success), **values)


# Comparisons


def test_scenes_that_memory_fixed_and_broke_are_counted():
    found = compare(pairs((0, 0), (0, 1), (0, 1), (1, 0), (1, 1)), "as trained", "reach")
    assert (found.pairs, found.fixed, found.broke) == (5, 2, 1)
    assert (found.base, found.memory) == (pytest.approx(2 / 5), pytest.approx(3 / 5))
    assert (found.deployment, found.task) == ("as trained", "reach")


def test_only_scenes_met_both_ways_are_compared():
    lonely = [episode(8, BASE, True), episode(9, MEMORY, True), episode(REMEMBERED_SEED, "remembered", True)]
    found = compare([*lonely, *pairs((1, 1), (0, 1))], "as trained", "reach")
    assert (found.pairs, found.base, found.memory) == (2, 0.5, 1.0)


def test_no_scene_met_both_ways_is_no_comparison():
    with pytest.raises(ValueError, match="no scene of 'reach' in deployment 'as trained' was met with and without"):
        compare([episode(8, BASE, True)], "as trained", "reach")


def test_scenes_are_those_of_one_task_in_one_deployment():
    episodes = [
        *pairs((0, 1)),
        *pairs((1, 0), (1, 0), task="push"),
        *pairs((0, 0), (0, 0), (0, 0), deployment="camera"),
    ]
    assert compare(episodes, "as trained", "reach").pairs == 1
    assert compare(episodes, "as trained", "push").broke == 2
    assert compare(episodes, "camera", "reach").pairs == 3
    everything = compare(episodes, "as trained", "all")
    assert (everything.task, everything.pairs, everything.fixed, everything.broke) == ("all", 3, 1, 2)


def test_steps_are_those_of_successes():
    episodes = [
        episode(0, BASE, True, length=40),
        episode(0, MEMORY, True, length=20, residual=0.1),
        episode(1, BASE, False, length=200),
        episode(1, MEMORY, True, length=30, residual=0.3),
    ]
    found = compare(episodes, "as trained", "reach")
    assert (found.base_steps, found.memory_steps) == (40, 25)
    assert found.residual == pytest.approx(0.2)


def test_without_a_success_there_are_no_steps():
    found = compare(pairs((0, 1)), "as trained", "reach")
    assert math.isnan(found.base_steps) and found.memory_steps == 100


@pytest.mark.parametrize("outcome, difference", [((0, 1), 1), ((1, 0), -1), ((1, 1), 0), ((0, 0), 0)])
def test_where_every_pair_says_the_same_the_interval_is_that_point(outcome, difference):
    found = compare(pairs(*[outcome] * 7), "as trained", "reach")
    assert (found.low, found.high) == (difference, difference)


@pytest.mark.parametrize("fixed, count", [(10, 20), (3, 12), (40, 50)])
def test_the_interval_is_that_of_the_binomial_distribution(fixed, count):
    """Pairs drawn with replacement, of which a share was fixed: their mean is binomial, in closed form."""
    found = compare(pairs(*[(0, 1)] * fixed, *[(0, 0)] * (count - fixed)), "as trained", "reach")
    share, below, quantiles = fixed / count, 0.0, []
    for k in range(count + 1):
        below += math.comb(count, k) * share**k * (1 - share) ** (count - k)
        quantiles += [k / count] * ((below >= 0.025) + (below >= 0.975) - len(quantiles))
    assert (found.low, found.high) == pytest.approx(quantiles)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_a_comparison_does_not_depend_on_the_order_of_episodes(outcomes, random):
    episodes = list(pairs(*outcomes))
    found = compare(episodes, "as trained", "reach", resamples=200)
    random.shuffle(episodes)
    assert (
        dataclasses.astuple(compare(episodes, "as trained", "reach", resamples=200))[:9]
        == (dataclasses.astuple(found)[:9])
    )
    assert found.memory - found.base == pytest.approx((found.fixed - found.broke) / found.pairs)
    assert found.low <= found.memory - found.base + 1e-12 and found.memory - found.base <= found.high + 1e-12


def test_a_comparison_can_be_written_as_json():
    found = compare(pairs((0, 1), (1, 1)), "as trained", "reach")
    assert Comparison(**json.loads(json.dumps(dataclasses.asdict(found)))) == found


# Schedules


class Scheduled(Executor):
    """Runs nothing: every job has the episodes that it should have, all of them failures."""

    def __init__(self, failing=()):
        self.jobs, self.failing = [], failing

    def submit(self, fn, /, job, output):
        assert fn is run_job
        self.jobs.append(job)
        future = Future()
        if job.task in self.failing:
            future.set_exception(RuntimeError(f"{job.task} failed"))
        else:
            future.set_result([
                episode(seed, way, task=job.task, deployment=job.deployment)
                for seed in range(job.episodes)
                for way in job.ways
            ])  # fmt: skip
        return future


def jobs(*tasks, **changes):
    return [dataclasses.replace(JOB, task=task, **changes) for task in tasks]


def lines(output):
    return (output / "episodes.jsonl").read_text().splitlines()


def test_every_job_is_run_and_its_episodes_are_written(tmp_path):
    executor, output = Scheduled(), tmp_path / "new" / "results"
    episodes = evaluate(jobs("reach", "push"), output, executor)
    assert [job.task for job in executor.jobs] == ["reach", "push"]
    assert len(episodes) == 8
    assert sorted(json.dumps(dataclasses.asdict(e)) for e in episodes) == sorted(lines(output))


def test_a_second_run_does_what_is_missing_and_nothing_else(tmp_path):
    first = evaluate(jobs("reach"), tmp_path, Scheduled())
    executor = Scheduled()
    episodes = evaluate(jobs("reach", "push"), tmp_path, executor)
    assert [job.task for job in executor.jobs] == ["push"]
    assert episodes[: len(first)] == first and len(episodes) == 8
    executor = Scheduled()
    assert evaluate(jobs("reach", "push"), tmp_path, executor) == episodes
    assert executor.jobs == []


def test_the_same_task_in_another_deployment_is_another_job(tmp_path):
    evaluate(jobs("reach"), tmp_path, Scheduled())
    executor = Scheduled()
    evaluate(jobs("reach", deployment="camera"), tmp_path, executor)
    assert [job.deployment for job in executor.jobs] == ["camera"]
    assert len(lines(tmp_path)) == 8


def damage(output, last_line):
    """Replace the last of the lines; returns them as they were, and the task that the last one is of."""
    whole = lines(output)
    (output / "episodes.jsonl").write_text("".join(line + "\n" for line in whole[:-1]) + last_line(whole[-1]))
    return whole, json.loads(whole[-1])["task"]


@pytest.mark.parametrize("left", [0, 1, 20, -1])
def test_a_job_whose_last_line_a_crash_took_or_tore_is_run_again_as_a_whole(tmp_path, left):
    evaluate(jobs("reach", "push"), tmp_path, Scheduled())
    whole, task = damage(tmp_path, lambda line: line[:left])
    executor = Scheduled()
    assert len(evaluate(jobs("reach", "push"), tmp_path, executor)) == 8
    assert [job.task for job in executor.jobs] == [task]
    assert sorted(lines(tmp_path)) == sorted(whole)


def test_more_episodes_or_another_way_than_there_are_need_another_run(tmp_path):
    evaluate(jobs("reach", ways=(BASE,), episodes=4), tmp_path, Scheduled())
    executor = Scheduled()
    evaluate(jobs("reach", ways=(BASE,), episodes=4), tmp_path, executor)
    assert executor.jobs == []
    episodes = evaluate(jobs("reach", episodes=2), tmp_path, executor)
    assert len(executor.jobs) == 1 and compare(episodes, "as trained", "reach").pairs == 2
    evaluate(jobs("reach", episodes=3), tmp_path, executor)
    assert len(executor.jobs) == 2


def test_episodes_of_jobs_that_were_not_asked_for_stay_but_are_not_returned(tmp_path):
    evaluate(jobs("push"), tmp_path, Scheduled())
    assert {e.task for e in evaluate(jobs("reach"), tmp_path, Scheduled())} == {"reach"}
    assert len(lines(tmp_path)) == 8


def test_after_a_job_has_failed_another_run_does_the_rest(tmp_path):
    with pytest.raises(RuntimeError, match="push failed"):
        evaluate(jobs("reach", "push"), tmp_path, Scheduled(failing=("push",)))
    executor = Scheduled()
    assert len(evaluate(jobs("reach", "push"), tmp_path, executor)) == 8
    assert "push" in [job.task for job in executor.jobs]
    assert len(lines(tmp_path)) == 8


# The job itself


@pytest.mark.simulator
def test_a_job_meets_every_scene_both_ways_with_a_memory_of_its_own(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    policy = {"policy": "constant", "cameras": ["left", "right"], "image_size": 32, "proprio_size": 4,
              "action_size": 4, "horizon": 50}  # fmt: skip
    overlay.write_text(yaml.safe_dump({
        "/efn/vla_policy": {"ros__parameters": policy},
        "/efn/libero_bridge": {"ros__parameters": {"image_size": 32, "execute_steps": 50}},
        "/efn/efn_corrector": {"ros__parameters": {"control_steps": 50}},
    }))  # fmt: skip
    job = Job("libero_sim", "mounting", "reach", episodes=1, remembered=2, overlays=(str(overlay),))
    leftover = tmp_path / "banks" / "mounting-reach" / "payloads" / "half"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"of a run that was interrupted")

    base, memory = run_job(job, str(tmp_path))
    assert [(e.deployment, e.task, e.way, e.seed) for e in (base, memory)] == [
        ("mounting", "reach", BASE, 0),
        ("mounting", "reach", MEMORY, 0),
    ]
    # A policy that stands still fails, and a memory of failures corrects nothing.
    for episode_ in (base, memory):
        assert (episode_.success, episode_.length, episode_.residual, episode_.corrected) == (False, 200, 0.0, 0.0)
    assert (base.confidence, memory.confidence) == (0.0, 0.0)

    remembered = BankReader(tmp_path / "banks" / "mounting-reach").snapshot().rollouts
    assert [(r.record.id, r.record.seed, r.record.outcome) for r in remembered] == [
        (f"remembered-reach-{REMEMBERED_SEED}", REMEMBERED_SEED, Outcome.FAILURE),
        (f"remembered-reach-{REMEMBERED_SEED + 1}", REMEMBERED_SEED + 1, Outcome.FAILURE),
        ("memory-reach-0", 0, Outcome.FAILURE),
    ]
    assert not leftover.exists()


def test_a_directory_refuses_episodes_of_other_settings(tmp_path):
    evaluate(jobs("reach"), tmp_path, Scheduled())
    for other in (jobs("reach", remembered=JOB.remembered + 1), jobs("reach", robot="another")):
        with pytest.raises(ValueError, match="name another directory"):
            evaluate(other, tmp_path, Scheduled())
