# SPDX-License-Identifier: MIT
"""The whole loop in one process: an episode is decided, executed and remembered, and the next one recalls it."""

import contextlib

import numpy as np
import pytest

from efn_ros.bank import BankReader, BankWriter
from efn_ros.correction import Corrector, RecalledAction
from efn_ros.correction.limits import ActionLimits
from efn_ros.features.sketches import Projection
from efn_ros.policies.constant import ConstantPolicy
from efn_ros.retrieval import RetrievalConfig, Retriever
from efn_ros.runtime.agent import Agent
from efn_ros.runtime.inference import Inference
from efn_ros.types import Mode, Outcome
from efn_ros.worlds import WorldSpec

PROJECTION = Projection(24, 16, seed=3)
EXECUTE_STEPS, RATE_HZ = 2, 10.0


class Slide:
    """A point on a line that has to reach 1; the seed draws where it starts. Actions are its speed."""

    spec = WorldSpec(
        name="slide",
        tasks={"slide": "slide to the right"},
        cameras=("eye",),
        low=np.full(1, -1.0, np.float32),
        high=np.full(1, 1.0, np.float32),
        proprio_names=("x_m",),
        horizon={"slide": 40},
        rate_hz=RATE_HZ,
    )

    def reset(self, task, seed):
        self.x = np.random.default_rng(seed).uniform(-0.2, 0.2)

    def observe(self):
        return {"eye": np.full((8, 8, 3), int(100 + 20 * self.x), np.uint8)}, np.float32([self.x])

    def step(self, action):
        self.x += float(action[0]) / RATE_HZ
        return self.x >= 1

    def close(self): ...


def limits(**bounds):
    values = {"low": [-1.0], "high": [1.0], "residual": [0.5], "holds_last": [False], "rate_hz": RATE_HZ}
    return ActionLimits.create(**{**values, **bounds})


@contextlib.contextmanager
def agent_at(speed, bank=None, **recall):
    """An agent whose policy moves at `speed`, with its memory in the directory `bank`."""
    policy = ConstantPolicy(cameras=["eye"], image_size=8, proprio_size=1, horizon=4, action=[speed], tokens=(6, 24))
    corrector = Corrector(limits(), RecalledAction(0.5, 0.5), control_steps=EXECUTE_STEPS)
    memory = ()
    if bank is not None:
        retriever = Retriever(BankReader(bank, projection=PROJECTION), RetrievalConfig(**recall))
        memory = (retriever, BankWriter(bank, projection=PROJECTION))
    agent = Agent(Inference(policy, PROJECTION), corrector, *memory, robot="slider")
    try:
        yield agent
    finally:
        agent.close()


def run(agent, seed=0, episode="e0", **how):
    return agent.run(Slide(), "slide", seed, episode_id=episode, execute_steps=EXECUTE_STEPS, **how)


def rollouts(bank):
    return BankReader(bank, projection=PROJECTION).snapshot().rollouts


def modes(result):
    return {correction.mode for correction in result.corrections}


@pytest.fixture
def bank(tmp_path):
    """A bank with two successes: one fast, one slower."""
    for speed in (0.9, 0.6):
        with agent_at(speed, tmp_path / "bank") as teacher:
            assert run(teacher, episode=f"taught-{speed}", correct=False).success
    return tmp_path / "bank"


def test_an_episode_without_memory_is_the_policy_alone():
    with agent_at(0.5) as agent:
        result = run(agent, seed=4)
    assert (result.episode_id, result.task, result.scene, result.success) == ("e0", "slide", 4, True)
    start = np.random.default_rng(4).uniform(-0.2, 0.2)
    assert result.length == np.ceil((1 - start) / 0.05)
    assert len(result.corrections) == -(-result.length // EXECUTE_STEPS)
    assert {(c.mode, c.reason) for c in result.corrections} == {(Mode.BASE, "no memory")}
    for i, correction in enumerate(result.corrections):
        context = correction.context
        assert (context.episode_id, context.step, context.instruction) == ("e0", i, "slide to the right")
        assert context.stamp_ns == i * EXECUTE_STEPS * 10**8
        assert (correction.corrected == 0.5).all()


def test_an_episode_without_success_ends_at_its_horizon():
    with agent_at(-0.5) as agent:
        result = run(agent)
    assert (result.success, result.length, len(result.corrections)) == (False, 40, 20)


@pytest.mark.parametrize("speed, outcome", [(0.5, Outcome.SUCCESS), (-0.5, Outcome.FAILURE)])
def test_every_decision_is_stored_with_its_outcome(tmp_path, speed, outcome):
    with agent_at(speed, tmp_path) as agent:
        result = run(agent, seed=3)
    (rollout,) = rollouts(tmp_path)
    assert (rollout.record.id, rollout.record.outcome, rollout.record.length) == ("e0", outcome, result.length)
    assert (rollout.record.robot, rollout.record.task, rollout.record.seed) == ("slider", "slide", 3)
    assert rollout.arrays.steps.tolist() == list(range(len(result.corrections)))
    np.testing.assert_array_equal(rollout.arrays.executed, [c.corrected for c in result.corrections])


def test_the_first_episode_of_a_memory_has_nothing_to_recall_and_the_second_recalls_the_first(tmp_path):
    with agent_at(0.5, tmp_path) as agent:
        first, second = run(agent, episode="first"), run(agent, episode="second")
    assert {(c.mode, c.reason) for c in first.corrections} == {(Mode.BASE, "the bank is empty")}
    assert modes(second) == {Mode.CORRECTED}
    assert {c.rollout_id for c in second.corrections} == {"first"}
    assert all(c.confidence > 0.5 for c in second.corrections)
    assert [rollout.record.id for rollout in rollouts(tmp_path)] == ["first", "second"]


def test_memory_turns_a_failure_into_a_success(bank):
    with agent_at(0.1, bank) as agent:
        alone = run(agent, episode="alone", correct=False, record=False)
        helped = run(agent, episode="helped", record=False)
    assert (alone.success, helped.success) == (False, True)
    assert modes(helped) == {Mode.CORRECTED}
    assert {c.rollout_id for c in helped.corrections} <= {"taught-0.9", "taught-0.6"}
    for correction in helped.corrections:
        np.testing.assert_array_equal(correction.residual, correction.corrected - correction.base)
        assert (correction.corrected > correction.base).all()


def test_what_is_not_to_be_corrected_stays_the_base(bank):
    with agent_at(0.1, bank) as agent:
        result = run(agent, correct=False)
    assert {(c.mode, c.reason, c.rollout_id) for c in result.corrections} == {(Mode.BASE, "correction is off", "")}
    assert all((c.corrected == np.float32(0.1)).all() for c in result.corrections)
    assert len(rollouts(bank)) == 3


def test_what_is_not_to_be_recorded_leaves_the_memory_as_it_is(bank):
    before = BankReader(bank, projection=PROJECTION).snapshot()
    with agent_at(0.1, bank) as agent:
        assert modes(run(agent, record=False)) == {Mode.CORRECTED}
    after = BankReader(bank, projection=PROJECTION).snapshot()
    assert (after.revision, len(after.rollouts)) == (before.revision, len(before.rollouts))


def test_an_episode_that_was_not_recorded_is_not_part_of_the_next(tmp_path):
    with agent_at(0.5, tmp_path) as agent:
        run(agent, episode="unrecorded", record=False)
        run(agent, episode="recorded")
    (rollout,) = rollouts(tmp_path)
    assert rollout.record.id == "recorded" and rollout.arrays.steps[0] == 0


def test_the_same_seed_gives_the_same_actions_bit_for_bit(bank):
    """Also where recall draws: from another agent, at another time, under another name of the episode."""
    runs = {}
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        with agent_at(0.1, bank, temperature=10.0) as agent:
            result = run(agent, seed=seed, episode=name, record=False)
        runs[name] = [(c.rollout_id, c.rollout_step, c.corrected.tobytes()) for c in result.corrections]
    assert runs["one"] == runs["two"]
    assert len({rollout for rollout, _, _ in runs["one"]}) == 2, "the draw has nothing to choose from"
    assert [r[:2] for r in runs["three"]] != [r[:2] for r in runs["one"]]
