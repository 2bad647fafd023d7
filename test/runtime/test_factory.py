"""From parameters to parts: each parameter arrives where it belongs."""

import dataclasses

import numpy as np
import pytest
import torch
from rclpy.serialization import deserialize_message, serialize_message

from efn_ros.bank import BankReader
from efn_ros.bank.store.retention import Retention
from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import PACKAGED, WEIGHTS, EfnConfig
from efn_ros.features.codes import Codes
from efn_ros.policies.pocket_vla.model import PocketVla, PocketVlaConfig
from efn_ros.policies.pocket_vla.processor import PocketVlaProcessor, train_tokenizer
from efn_ros.ros import conversions
from efn_ros.runtime import factory as assembly
from efn_ros.runtime.agent import Agent
from efn_ros.runtime.bridge_factory import make_bridge
from efn_ros.runtime.graph import Graph
from efn_ros.types import (
    Experience,
    Experiences,
    Mode,
    Observation,
    Outcome,
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
    "publish_visual": False,
}
WRITER = CONSTANT | {"image_quality": 90, "retention.strategy": "keep_all"}
WRITER |= {f"retention.{name}": 0 for name in ("rollouts", "steps", "megabytes")}
CORRECTOR = {
    "method": "recalled_action",
    "checkpoint": "",
    "decoder_policy": "",
    "decoder_checkpoint": "",
    "shadow": False,
    "gain": 0.5,
    "check_memory": True,
    "disagreement_scale": 0.0,
    "min_confidence": 0.5,
    "exploration.mode": "off",
    "exploration.scale": 0.5,
    "exploration.max_confidence": 1.0,
    "exploration.rate": 1.0,
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
    spec = assembly.make_policy(CONSTANT).spec
    assert (spec.name, spec.cameras, spec.image_size, spec.proprio_size) == ("constant", ("head",), 8, 3)
    assert (spec.horizon, spec.action_size) == (5, 2)


def test_an_untrained_policy_has_the_sizes_of_the_parameters():
    spec = assembly.make_policy({**CONSTANT, "policy": "untrained", "image_size": 32}).spec
    assert (spec.name, spec.cameras, spec.image_size, spec.proprio_size) == ("untrained", ("head",), 32, 3)
    assert (spec.horizon, spec.action_size) == (5, 2)


def test_the_policy_of_the_agibot_can_be_made_and_fits_its_projection():
    parameters = Graph.load("agibot_g1").parameters("vla_policy")
    inference = assembly.make_inference(parameters)
    spec = inference.policy.spec
    assert spec.cameras == ("head", "hand_left", "hand_right")
    assert (spec.horizon, spec.action_size, spec.proprio_size) == (30, 16, 16)
    assert spec.tokens[1] == inference.projection.input_size


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        assembly.make_policy({**CONSTANT, "policy": "pocket_vla", "checkpoint": str(tmp_path)})


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="policy 'gato' is unknown"):
        assembly.make_policy({**CONSTANT, "policy": "gato"})


def test_inference_projects_as_the_parameters_say():
    projection = assembly.make_inference(CONSTANT).projection
    assert (projection.input_size, projection.output_size, projection.seed) == (128, 16, 9)


# The corrector


def test_a_limit_of_one_entry_stands_for_every_dimension():
    corrector = assembly.make_corrector({**CORRECTOR, "limits.low": [-1.0]})
    held = corrector.correct(step([[-5.0, -5.0]]), Recall())
    np.testing.assert_array_equal(held.corrected, [[-1, -1]])


def test_limits_arrive_where_they_belong():
    corrector = assembly.make_corrector(CORRECTOR)
    assert corrector.correct(step([[9, 9], [9, 9], [9, 9]]), Recall()).corrected.tolist() == [[1, 2]] * 3
    held = corrector.correct(step([[1, 1.4]], 1), Recall())
    assert (held.mode, held.reason) == (Mode.HOLD, "action[0][1] jumps by 0.6000, beyond 0.5000")
    (speed, position) = held.corrected[0]
    assert 0.5 <= speed < 1 and position == 2  # towards standstill, no faster than a jump may be


def test_limits_that_do_not_fit_one_another_are_named():
    with pytest.raises(ValueError, match="limit 'high' has 3 entries, but an action has 2"):
        assembly.make_corrector({**CORRECTOR, "limits.high": [1.0, 1.0, 1.0]})


def test_a_shadow_is_configured_by_the_parameters():
    corrector = assembly.make_corrector({**CORRECTOR, "shadow": True})
    assert corrector.correct(step([[0, 0]]), Recall(reason="nothing")).mode == Mode.SHADOW


def test_exploration_is_configured_by_the_parameters():
    bound = np.array([0.25, 0.25], np.float32)
    own = assembly.make_exploration({**CORRECTOR, "exploration.mode": "noise", "exploration.rate": 0.75}, bound)
    assert (own.mode, own.scale, own.max_confidence, own.rate) == ("noise", 0.5, 1.0, 0.75)
    assert (own.bound is bound, own.control_steps, own.rate_hz) == (True, 2, 10.0)


def test_critics_are_asked_where_the_parameters_say_so(monkeypatch):
    asked = []
    monkeypatch.setattr("efn_ros.correction.learned.LearnedResidual", lambda *a, **options: asked.append((a, options)))
    assembly.make_residual({**CORRECTOR, "method": "learned", "checkpoint": "c", "disagreement_scale": 0.25})
    assert asked == [(("c",), {"gain": 0.5, "check_memory": True, "disagreement_scale": 0.25})]


def test_only_a_learned_actor_can_be_sampled(tmp_path):
    values = {**CORRECTOR, "exploration.mode": "residual"}
    with pytest.raises(ValueError, match="samples the learned actor; set method: learned"):
        assembly.make_corrector(values)
    with pytest.raises(FileNotFoundError, match="no EFN checkpoint in"):
        assembly.make_exploration({**values, "method": "learned", "checkpoint": str(tmp_path)}, np.ones(2))


# A correction of latent tokens


@pytest.fixture
def checkpoints(tmp_path):
    """Of a policy, and of an EFN that changes its latent tokens; the directories `policy` and `efn`."""
    tokenizer = train_tokenizer([], 300)
    sizes = {"cameras": ("head",), "image_size": 32, "proprio_size": 3, "horizon": 5, "width": 16, "heads": 2}
    bounds = {
        "action_low": (-1.0,) * 2,
        "action_high": (1.0,) * 2,
        "proprio_mean": (0.0,) * 3,
        "proprio_std": (1.0,) * 3,
    }
    torch.manual_seed(0)
    model = PocketVla(PocketVlaConfig(vocabulary_size=len(tokenizer), keypoint_tokens=1, **sizes, **bounds))
    model.save_pretrained(tmp_path / "policy")
    PocketVlaProcessor(tokenizer).save_pretrained(tmp_path / "policy")
    ones = (1.0,) * 3
    efn = Efn(
        EfnConfig(
            horizon=5, action_size=2, latent=(4, 16), sketch=(5, 16), bound=(0.25, 0.25), proprio_mean=ones,
            proprio_std=ones, motion_std=ones, width=16, heads=2, feedforward=16, space="latent",
            latent_bound=(0.5,) * 16,
        )
    )  # fmt: skip
    torch.nn.init.normal_(efn.head.weight)
    efn.save_pretrained(tmp_path / "efn")
    return tmp_path


def inference_of(checkpoints, **changes):
    named = {"policy": "pocket_vla", "checkpoint": str(checkpoints / "policy"), "tokens_width": 16}
    return assembly.make_inference({**CONSTANT, **named, "publish_visual": True, **changes})


def latent_parameters(checkpoints, **changes):
    named = {"method": "learned", "checkpoint": str(checkpoints / "efn"), "limits.reject": [np.inf], "gain": 1.0}
    named |= {"decoder_policy": "pocket_vla", "decoder_checkpoint": str(checkpoints / "policy")}
    return {**CORRECTOR, **named, **changes}


def look(value=0, step=0):
    rng = np.random.default_rng(value)
    images = {"head": rng.integers(0, 256, (32, 32, 3), np.uint8)}
    context = StepContext("e0", step, 0, "task", "open the drawer")
    return Observation(context, images, rng.uniform(size=3).astype(np.float32))


def recalled_from(made):
    """A memory of one step, which did something else."""
    executed = (made.base + np.float32(0.3)).astype(np.float32)
    arrays = (executed, made.base, made.proprio, made.proprio, executed, made.proprio, made.latent.mean(axis=0))
    experience = Experience("r0", 0, "open the drawer", Outcome.SUCCESS, 8, *arrays, 1.0, 1.0, 1.0)
    return Recall(Experiences.of(experience), drawn=0, confidence=1.0)


def test_a_change_of_latent_tokens_is_decoded_by_the_policy_that_the_parameters_name(checkpoints):
    """And what goes out is a residual on the action, within its limits."""
    inference = inference_of(checkpoints)
    made = inference(look())
    correction = assembly.make_corrector(latent_parameters(checkpoints)).correct(made, recalled_from(made))
    policy = inference.policy
    direct = LearnedResidual(checkpoints / "efn", decode=policy.decode, policy=policy.spec.fingerprint)
    residual, *_ = direct(made, recalled_from(made))
    assert (correction.mode, correction.reason) == (Mode.CORRECTED, "") and correction.residual.any()
    assert (np.abs(correction.residual) <= 0.25 + 1e-6).all()
    share = correction.residual[residual != 0] / residual[residual != 0]
    np.testing.assert_allclose(share, share[0], rtol=1e-2)  # only its size is limited
    np.testing.assert_array_equal(correction.corrected, made.base + correction.residual)


def test_what_cannot_be_decoded_leaves_the_base_and_says_why(checkpoints):
    made = inference_of(checkpoints)(look())
    corrector = assembly.make_corrector(latent_parameters(checkpoints))
    for change, words in (
        ({"visual": None}, "set publish_visual of vla_policy"),
        (
            {"policy": "pocket_vla-another"},
            "the step is of policy 'pocket_vla-another', but latent tokens are decoded by",
        ),
    ):
        step = dataclasses.replace(made, **change)
        correction = corrector.correct(step, recalled_from(made))
        assert correction.mode == Mode.BASE and words in correction.reason and not correction.residual.any()
        np.testing.assert_array_equal(correction.corrected, made.base)


def test_a_decoder_is_loaded_only_where_one_is_needed(checkpoints, monkeypatch):
    with pytest.raises(
        ValueError, match="efn has space 'latent', but nothing decodes .* decoder_policy of efn_corrector"
    ):
        assembly.make_corrector(latent_parameters(checkpoints, decoder_policy=""))
    with pytest.raises(FileNotFoundError, match="no PocketVLA checkpoint in"):
        assembly.make_corrector(latent_parameters(checkpoints, decoder_checkpoint=str(checkpoints)))
    monkeypatch.setattr(assembly, "load_policy", lambda *args, **settings: 1 / 0)
    assembly.make_corrector(latent_parameters(checkpoints, checkpoint=""))  # on the action


def test_visual_tokens_that_came_over_the_wire_give_the_action_of_the_agent_bit_for_bit(checkpoints):
    inference, corrector = inference_of(checkpoints), assembly.make_corrector(latent_parameters(checkpoints))
    memory = recalled_from(inference(look(7)))

    class Remembering:
        def look(self, observation): ...

        def recall(self, step):
            return memory

    agent = Agent(inference_of(checkpoints), assembly.make_corrector(latent_parameters(checkpoints)), Remembering())
    for index in range(4):
        message = conversions.policy_step_to_msg(inference(look(index, index)), 0, 0)
        carried = deserialize_message(serialize_message(message), type(message))
        over_the_wire = corrector.correct(conversions.policy_step_from_msg(carried), memory)
        _, _, in_process = agent.act(look(index, index))
        assert over_the_wire.mode == in_process.mode == Mode.CORRECTED
        for part in ("base", "residual", "corrected", "proposed"):
            assert getattr(over_the_wire, part).tobytes() == getattr(in_process, part).tobytes(), part
        assert in_process.residual.any()


# The memory


def test_recall_is_configured_by_the_parameters(tmp_path):
    values = {
        "search": "everything",
        "hits": 12,
        "rollouts": 3,
        "steps": 400,
        "k": 5,
        "context": 7,
        "codes": "packaged",
        "temperature": 0.5,
        "similarity_weight": 0.75,
        "length_decay": 2.0,
        "weight_visual": 0.5,
        "weight_latent": 0.25,
        "weight_proprio": 0.125,
        "argmax": True,
        "follow": 0.05,
        "success_only": True,
        "outcomes": 20,
        "rerank.encoder": "",
        "rerank.detector": "",
    }
    config = assembly.make_retriever(values, tmp_path)._config
    assert (config.rollouts_n, config.k, config.context, config.temperature, config.argmax) == (3, 5, 7, 0.5, True)
    assert (config.lambda_, config.beta, config.success_only) == (0.75, 2.0, True)
    assert (config.steps_n, config.follow, config.outcomes) == (400, 0.05, 20)
    assert (config.steps_n, config.follow, config.search, config.hits) == (400, 0.05, "everything", 12)
    assert config.codes.identity == Codes.load(PACKAGED / "metaworld" / WEIGHTS).identity
    assert assembly.make_retriever({**values, "codes": ""}, tmp_path)._config.codes is None
    assert (config.visual, config.latent, config.proprio) == (0.5, 0.25, 0.125)


def test_a_bank_may_be_named_by_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assembly.make_writer(WRITER, "~/banks/mine").close()
    assert BankReader(tmp_path / "banks" / "mine").snapshot().rollouts == ()


def test_a_bank_keeps_to_the_budget_of_the_parameters(tmp_path):
    budget = {"retention.strategy": "recency", "retention.rollouts": 3, "retention.megabytes": 2}
    with assembly.make_writer(WRITER | budget, tmp_path) as writer:
        assert writer._retention == Retention("recency", rollouts=3, bytes=2_000_000)
    with pytest.raises(ValueError, match="retention.strategy is 'keep_all', but there is a budget"):
        assembly.make_writer(WRITER | budget | {"retention.strategy": "keep_all"}, tmp_path)


# Worlds


def test_a_deployment_is_drawn_from_its_seed_and_strengths():
    strengths = {"yaw": 0.5, "latency": 1.0}
    values = {f"deployment.{kind}": strengths.get(kind, 0.0) for kind in KINDS}
    assert assembly.make_deployment({"deployment.seed": 12, **values}) == Deployment.draw(12, strengths)


def test_an_unknown_world_is_named():
    parameters = {**Graph.load("libero_sim").parameters("libero_bridge"), "world": "mars"}
    with pytest.raises(ValueError, match="world 'mars' is unknown"):
        assembly.make_simulation(parameters)


# The agent


@pytest.fixture
def graph():
    """The simulated robot's, with a policy that costs nothing."""

    changes = {**CONSTANT, "action_size": 4, "method": "recalled_action"}  # the packaged network fits another policy

    def configured(node):
        return dataclasses.replace(node, parameters={**node.parameters, **changes})

    plain = Graph.load("libero_sim")
    return dataclasses.replace(plain, nodes=tuple(map(configured, plain.nodes)))


def test_an_agent_without_a_bank_is_the_policy_alone(graph):
    agent = assembly.make_agent(graph, None)
    made, recall, correction = agent.act(observation())
    assert (recall.reason, correction.mode) == ("no memory", Mode.BASE)
    np.testing.assert_array_equal(correction.corrected, made.base)
    agent.close()


def test_an_agent_with_a_bank_reads_and_writes_there(graph, tmp_path):
    agent = assembly.make_agent(graph, tmp_path / "bank")
    _, recall, _ = agent.act(observation())
    assert recall.reason == "the bank is empty"
    agent.close()


def test_an_unknown_method_of_correction_is_named():
    with pytest.raises(ValueError, match="method 'magic' is unknown; there are 'recalled_action' and 'learned'"):
        assembly.make_residual({**CORRECTOR, "method": "magic"})


def test_a_learned_correction_needs_its_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no EFN checkpoint in"):
        assembly.make_residual({**CORRECTOR, "method": "learned", "checkpoint": str(tmp_path)})


def test_only_a_corrector_that_learns_follows_what_is_learnt():
    parameters = {**Graph.load("libero_sim").parameters("efn_corrector"), "method": "recalled_action"}
    assert assembly.make_switching({**parameters, "learn": True}, None) is None
    assert assembly.make_switching({**parameters, "method": "learned", "learn": False}, None) is None


@pytest.mark.parametrize(
    "node, change, message",
    [
        ("efn_corrector", {"method": "recalled_action"}, "method of efn_corrector is 'recalled_action'"),
        ("efn_corrector", {"disagreement_scale": 0.5}, "disagreement_scale of efn_corrector is set"),
        ("efn_corrector", {"gain": 0.0}, "gain of efn_corrector is 0.0"),
        ("efn_trainer", {"rule": "always"}, "rule is 'always'; there are 'operator', 'when proven'"),
        ("efn_trainer", {"margin": 2.0}, "margin is 2.0"),
    ],
)
def test_a_learner_is_what_the_parameters_say_and_what_it_cannot_do_is_named(tmp_path, node, change, message):
    graph = Graph.load("libero_sim", learn=True, bank=str(tmp_path / "bank"))
    parts = {n: graph.parameters(n) for n in ("efn_trainer", "experience_retrieval", "efn_corrector")}
    parts["efn_corrector"] |= {"method": "learned", "gain": 1.0}
    learner = assembly.make_learner(*parts.values(), pause=lambda: None)
    assert learner.registry.directory == tmp_path / "bank" / "efn"
    with pytest.raises(ValueError, match=message):
        assembly.make_learner(*{**parts, node: {**parts[node], **change}}.values())


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
        ({"joints.low": [0.0] * 6}, "joints.low has 6 entries; there are 14 joints"),
        ({"joints.names": ["a"] * 14}, "each joint needs a name of its own"),
        ({"joints.names": ["a", "b"]}, "14 joints and 2 grippers; the robot has 2 and 2"),
        ({"action.grippers": [7, 7]}, "joints and grippers name"),
        ({"grippers.opened": [0.0]}, "grippers.opened has 1 entries; there are 2 grippers"),
        ({"action.kind": "relative"}, "kind of action is 'relative'"),
        ({"workspace.model": "hal9000"}, "workspace.model is 'hal9000'"),
        ({"workspace.model": ""}, "workspace has bounds but no model"),
        ({"workspace.box": [0.0, 1.0]}, "box has 2 numbers"),
        ({"patience.state_s": 0.0}, "state_s is 0.0"),
    ],
)
def test_parameters_of_a_bridge_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_bridge(bridge_parameters(**change))


def test_a_workspace_of_two_arms_is_not_taken_for_one():
    with pytest.raises(ValueError, match="postures have shape"):
        make_bridge(bridge_parameters("arm_7dof", **{"workspace.model": "agibot_g1"}))
