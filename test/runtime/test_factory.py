# SPDX-License-Identifier: MIT
"""From parameters to parts: each parameter arrives where it belongs."""

import dataclasses

import numpy as np
import pytest

from efn_ros.bank import BankReader
from efn_ros.bank.store.retention import Retention
from efn_ros.efn.config import PACKAGED, WEIGHTS
from efn_ros.features.codes import SketchEncoder
from efn_ros.retrieval.similarity import CueWeights
from efn_ros.runtime import factory
from efn_ros.runtime.bridge_factory import make_bridge
from efn_ros.runtime.graph import Graph
from efn_ros.types import (
    Mode,
    Observation,
    PolicyStep,
    Quantised,
    Recall,
    StepContext,
)
from efn_ros.worlds import Deployment
from efn_ros.worlds.deployment import KINDS

CONSTANT = {
    "policy": "constant",
    "checkpoint": "",
    "threads": 1,
    "cameras": ["head"],
    "image_size": 8,
    "proprio_size": 3,
    "action_size": 2,
    "horizon": 5,
    "tokens_width": 128,
    "descriptor_size": 16,
    "projection_seed": 9,
}
WRITER = CONSTANT | {"image_quality": 90, "retention.strategy": "keep_all"}
WRITER |= {f"retention.{name}": 0 for name in ("rollouts", "steps", "megabytes")}
CORRECTOR = {
    "method": "recalled_action",
    "checkpoint": "",
    "shadow": False,
    "gain": 0.5,
    "check_memory": True,
    "min_confidence": 0.5,
    "exploration.mode": "off",
    "exploration.scale": 0.5,
    "exploration.max_confidence": 1.0,
    "exploration.episode_fraction": 1.0,
    "control_steps": 2,
    "rate_hz": 10.0,
    "limits.low": [-1.0, -2.0],
    "limits.high": [1.0, 2.0],
    "limits.residual": [0.25],
    "limits.velocity": [np.inf],
    "limits.acceleration": [np.inf],
    "limits.jerk": [np.inf],
    "limits.reject": [0.5],
    "limits.holds_last": [False, True],
    "limits.measured": [-1],
}


def observation(context=None):
    context = context or StepContext("e0", 0, 0, "task", "open the drawer")
    return Observation(context, {"head": np.zeros((8, 8, 3), np.uint8)}, np.zeros(3, np.float32))


def step(base, index=0):
    context, nothing = StepContext("e0", index, 0, "task", "open the drawer"), np.zeros(0, np.float32)
    tokens = Quantised(np.zeros((1, 4), np.int8), np.ones(1, np.float32))
    return PolicyStep(context, np.asarray(base, np.float32), tokens, tokens, nothing[None], nothing, nothing)


# Policies and inference


def test_a_constant_policy_has_the_sizes_of_the_parameters():
    spec = factory.make_policy(CONSTANT).spec
    assert (spec.name, spec.cameras, spec.image_size, spec.proprio_size) == ("constant", ("head",), 8, 3)
    assert (spec.horizon, spec.action_size) == (5, 2)


def test_a_policy_without_a_checkpoint_needs_its_sizes_by_name():
    with pytest.raises(ValueError, match="set image_size, horizon too"):
        factory.make_policy({name: value for name, value in CONSTANT.items() if name not in ("image_size", "horizon")})


def test_an_untrained_policy_has_the_sizes_of_the_parameters():
    spec = factory.make_policy({**CONSTANT, "policy": "untrained", "image_size": 32}).spec
    assert (spec.name, spec.cameras, spec.image_size, spec.proprio_size) == ("untrained", ("head",), 32, 3)
    assert (spec.horizon, spec.action_size) == (5, 2)


def test_the_policy_of_the_agibot_can_be_made_and_fits_its_projection():
    parameters = Graph.load("agibot_g1").parameters("vla_policy")
    inference = factory.make_inference(parameters)
    spec = inference.policy.spec
    assert spec.cameras == ("head", "hand_left", "hand_right")
    assert (spec.horizon, spec.action_size, spec.proprio_size) == (30, 16, 16)
    assert spec.tokens[1] == inference.projection.input_size


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        factory.make_policy({**CONSTANT, "policy": "pocket_vla", "checkpoint": str(tmp_path)})


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="policy 'gato' is unknown"):
        factory.make_policy({**CONSTANT, "policy": "gato"})


def test_inference_projects_as_the_parameters_say():
    projection = factory.make_inference(CONSTANT).projection
    assert (projection.input_size, projection.output_size, projection.seed) == (128, 16, 9)


# The corrector


def test_a_limit_of_one_entry_stands_for_every_dimension():
    corrector = factory.make_corrector({**CORRECTOR, "limits.low": [-1.0]})
    held = corrector.correct(step([[-5.0, -5.0]]), Recall())
    np.testing.assert_array_equal(held.corrected, [[-1, -1]])


def test_limits_arrive_where_they_belong():
    corrector = factory.make_corrector(CORRECTOR)
    assert corrector.correct(step([[9, 9], [9, 9], [9, 9]]), Recall()).corrected.tolist() == [[1, 2]] * 3
    held = corrector.correct(step([[1, 1.4]], 1), Recall())
    assert (held.mode, held.reason) == (Mode.HOLD, "action[0][1] jumps by 0.6000, beyond 0.5000")
    (speed, position) = held.corrected[0]
    assert 0.5 <= speed < 1 and position == 2  # towards standstill, no faster than a jump may be


def test_limits_that_do_not_fit_one_another_are_named():
    with pytest.raises(ValueError, match="limit 'high' has 3 entries, but an action has 2"):
        factory.make_corrector({**CORRECTOR, "limits.high": [1.0, 1.0, 1.0]})


def test_a_shadow_is_configured_by_the_parameters():
    corrector = factory.make_corrector({**CORRECTOR, "shadow": True})
    assert corrector.correct(step([[0, 0]]), Recall(reason="nothing")).mode == Mode.SHADOW


def test_exploration_is_configured_by_the_parameters():
    bound = np.array([0.25, 0.25], np.float32)
    own = factory.make_exploration(
        {**CORRECTOR, "exploration.mode": "noise", "exploration.episode_fraction": 0.75}, bound
    )
    assert (own.mode, own.scale, own.max_confidence, own.episode_fraction) == ("noise", 0.5, 1.0, 0.75)
    assert (own.bound is bound, own.control_steps, own.rate_hz) == (True, 2, 10.0)


def test_the_learned_residual_is_configured_by_the_parameters(monkeypatch):
    made = []
    monkeypatch.setattr("efn_ros.correction.learned.LearnedResidual", lambda *a, **options: made.append((a, options)))
    factory.make_residual({**CORRECTOR, "method": "learned", "checkpoint": "c"})
    assert made == [(("c",), {"gain": 0.5, "check_memory": True})]


def test_only_a_learned_actor_can_be_sampled(tmp_path):
    values = {**CORRECTOR, "exploration.mode": "residual"}
    with pytest.raises(ValueError, match="samples the learned actor; set method: learned"):
        factory.make_corrector(values)
    with pytest.raises(FileNotFoundError, match="no EFN checkpoint in"):
        factory.make_exploration({**values, "method": "learned", "checkpoint": str(tmp_path)}, np.ones(2))


# Experiments


def test_an_experiment_takes_the_place_of_a_residual(monkeypatch):
    residual = object()
    monkeypatch.setattr("efn_ros.experiments.critic_disagreement.make_residual", lambda p: residual)
    assert factory.make_residual({**CORRECTOR, "experiment": "critic_disagreement"}) is residual


def test_an_experiment_that_is_none_or_offers_no_such_part_is_named():
    with pytest.raises(ValueError, match="experiment 'magic' is unknown; choose one of 'critic_disagreement', "):
        factory.make_residual({**CORRECTOR, "experiment": "magic"})
    with pytest.raises(ValueError, match="experiment 'sac' offers no make_residual; leave it out"):
        factory.make_residual({**CORRECTOR, "experiment": "sac"})


# The memory


def test_recall_is_configured_by_the_parameters(tmp_path):
    values = {
        "search": "everything",
        "hits": 12,
        "max_rollouts": 3,
        "max_steps": 400,
        "k": 5,
        "random_steps": 7,
        "codes": "packaged",
        "temperature": 0.5,
        "similarity_weight": 0.75,
        "length_decay": 2.0,
        "weight_visual": 0.5,
        "weight_latent": 0.25,
        "weight_proprio": 0.125,
        "argmax": True,
        "reference_margin": 0.05,
        "success_only": True,
        "success_model_rollouts": 20,
    }
    config = factory.make_retriever(values, BankReader(tmp_path)).config
    assert (config.max_rollouts, config.k, config.random_steps, config.temperature, config.argmax) == (
        3,
        5,
        7,
        0.5,
        True,
    )
    assert (config.lambda_, config.beta, config.success_only) == (0.75, 2.0, True)
    assert (config.max_steps, config.reference_margin, config.success_model_rollouts) == (400, 0.05, 20)
    assert (config.search, config.hits) == ("everything", 12)
    assert config.codes.identity == SketchEncoder.load(PACKAGED / "metaworld" / WEIGHTS).identity
    assert factory.make_retrieval_config({**values, "codes": ""}).codes is None
    assert config.weights == CueWeights(visual=0.5, latent=0.25, proprio=0.125)


def test_a_bank_may_be_named_by_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    factory.make_writer(WRITER, "~/banks/mine").close()
    assert BankReader(tmp_path / "banks" / "mine").snapshot().rollouts == ()


def test_a_bank_keeps_to_the_budget_of_the_parameters(tmp_path):
    budget = {"retention.strategy": "recency", "retention.rollouts": 3, "retention.megabytes": 2}
    with factory.make_writer(WRITER | budget, tmp_path) as writer:
        assert writer._retention == Retention("recency", rollouts=3, bytes=2_000_000)
    with pytest.raises(ValueError, match="retention.strategy is 'keep_all', but there is a budget"):
        factory.make_writer(WRITER | budget | {"retention.strategy": "keep_all"}, tmp_path)


# Worlds


def test_a_deployment_is_drawn_from_its_seed_and_strengths():
    strengths = {"yaw": 0.5, "latency": 1.0}
    values = {f"deployment.{kind}": strengths.get(kind, 0.0) for kind in KINDS}
    assert factory.make_deployment({"deployment.seed": 12, **values}) == Deployment.draw(12, strengths)


def test_an_unknown_world_is_named():
    parameters = {**Graph.load("metaworld_sim").world, "world": "mars"}
    with pytest.raises(ValueError, match="world 'mars' is unknown"):
        factory.make_simulation(parameters)


# The agent


@pytest.fixture
def graph():
    """The simulated robot's, with a policy that costs nothing."""

    changes = {**CONSTANT, "action_size": 4, "method": "recalled_action"}  # the packaged network fits another policy

    def configured(node):
        return dataclasses.replace(node, parameters={**node.parameters, **changes})

    plain = Graph.load("metaworld_sim")
    return dataclasses.replace(plain, nodes=tuple(map(configured, plain.nodes)))


def test_an_agent_without_a_bank_is_the_policy_alone(graph):
    agent = factory.make_agent(graph, None)
    made, recall, correction = agent.act(observation())
    assert (recall.reason, correction.mode) == ("no memory", Mode.BASE)
    np.testing.assert_array_equal(correction.corrected, made.base)
    agent.close()


def test_an_agent_with_a_bank_reads_and_writes_there(graph, tmp_path):
    agent = factory.make_agent(graph, tmp_path / "bank")
    _, recall, _ = agent.act(observation())
    assert recall.reason == "the bank is empty"
    agent.close()


def test_an_unknown_method_of_correction_is_named():
    with pytest.raises(ValueError, match="method 'magic' is unknown; choose 'recalled_action' or 'learned'"):
        factory.make_residual({**CORRECTOR, "method": "magic"})


def test_a_learned_correction_needs_its_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no EFN checkpoint in"):
        factory.make_residual({**CORRECTOR, "method": "learned", "checkpoint": str(tmp_path)})


def test_only_a_corrector_that_learns_switches_checkpoints():
    parameters = {**Graph.load("metaworld_sim").parameters("efn_corrector"), "method": "recalled_action"}
    assert factory.make_switching({**parameters, "learn": True}, None) is None
    assert factory.make_switching({**parameters, "method": "learned", "learn": False}, None) is None


# The bridge to a robot's arms


def bridge_parameters(robot="agibot_g1", **change):
    node = {"agibot_g1": "agibot_g1_bridge", "arm_7dof": "trajectory_bridge"}[robot]
    return Graph.load(robot).parameters(node) | change


def test_shipped_parameters_make_a_bridge_within_the_limits_of_the_corrector():
    for robot, joints, grippers in (("agibot_g1", 14, 2), ("arm_7dof", 7, 0)):
        bridge, made = make_bridge(bridge_parameters(robot))
        limits, corrector = bridge._stream.limits, Graph.load(robot).parameters("efn_corrector")
        assert (len(limits.low), len(made)) == (joints, grippers)
        entries = bridge_parameters(robot)["action.joints"]
        for name in ("low", "high"):
            assert np.array_equal(getattr(limits, name), np.take(corrector[f"limits.{name}"], entries)), name


def test_the_speed_scale_is_of_all_rates():
    limits = make_bridge(bridge_parameters(speed_scale=0.1))[0]._stream.limits
    assert (limits.velocity[0], limits.acceleration[0], limits.jerk[0]) == pytest.approx((0.1, 0.3, 1.0))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"joints.low": [0.0] * 6}, "joints.low has 6 entries; the robot has 14 joints"),
        ({"joints.names": ["a"] * 14}, "each joint needs a name of its own"),
        ({"joints.names": ["a", "b"]}, "14 joints and 2 grippers; the robot has 2 and 2"),
        ({"action.grippers": [7, 7]}, "joints and grippers name"),
        ({"grippers.opened": [0.0]}, "grippers.opened has 1 entries; the robot has 2 grippers"),
        ({"action.kind": "relative"}, "kind of action is 'relative'"),
        ({"workspace.model": "hal9000"}, "workspace.model is 'hal9000'"),
        ({"workspace.model": ""}, "workspace has bounds but no model"),
        ({"workspace.box": [0.0, 1.0]}, "box has 2 numbers"),
        ({"timeouts.state_s": 0.0}, "state_s is 0.0"),
    ],
)
def test_parameters_of_a_bridge_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_bridge(bridge_parameters(**change))


def test_a_workspace_of_two_arms_is_not_taken_for_one():
    with pytest.raises(ValueError, match="postures have shape"):
        make_bridge(bridge_parameters("arm_7dof", **{"workspace.model": "agibot_g1"}))
