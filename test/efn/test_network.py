"""The EFN: a set goes in, a bounded residual comes out, and without memory there is none."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.correction.learned import LearnedResidual
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import MOTION, Present, Recalled, present_of, recalled_of, recent_of
from efn_ros.efn.checkpoint import require_action_space
from efn_ros.efn.config import SIZES, WEIGHTS, EfnConfig
from efn_ros.experiments.sac.critics import EfnCritics
from efn_ros.features.codes import Codes
from efn_ros.policies.registry import load_policy
from efn_ros.types import Experience, Experiences, Outcome, Past, PolicyStep, Quantised, Recall, StepContext

H, A, P, L, DZ, T, D, C = 3, 2, 4, 2, 8, 5, 6, 3
CONFIG = EfnConfig(
    horizon=H, action_size=A, latent=(L, DZ), sketch=(T, D), bound=(0.5, 0.25), proprio_mean=(0.1,) * P,
    proprio_std=(0.2,) * P, motion_std=(0.05,) * P, identified=3, codes=C, width=32, heads=4, layers=2, feedforward=64,
)  # fmt: skip
KEY = Quantised(np.zeros(4, np.int8), np.float32(1))


@pytest.fixture
def efn() -> Efn:
    """With a head that says something: at its start a network proposes nothing."""
    torch.manual_seed(0)
    made = Efn(CONFIG).eval()
    torch.nn.init.normal_(made.head.weight)
    torch.nn.init.normal_(made.code_basis)
    return made


def present(batch=5) -> Present:
    return Present(torch.randn(batch, L, DZ), torch.randn(batch, T, D), torch.randn(batch, P), torch.randn(batch, H, A))


def recalled(batch=5, k=6) -> Recalled:
    r = torch.randn
    return Recalled(
        executed=r(batch, k, H, A), base=r(batch, k, H, A), proprio=r(batch, k, P), proprio_next=r(batch, k, P),
        executed_before=r(batch, k, H, A), proprio_before=r(batch, k, P),
        latent=r(batch, k, DZ), code=r(batch, k, C), success=torch.randint(2, (batch, k)).float(),
        similarity=torch.rand(batch, k), there=torch.ones((batch, k), dtype=torch.bool),
    )  # fmt: skip


def each(memory: Recalled, change) -> Recalled:
    return replace(memory, **{name: change(value) for name, value in vars(memory).items()})


def step() -> PolicyStep:
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    context = StepContext("e0", 0, 0, "reach", "reach the goal")
    sketch = Quantised(rng.integers(-9, 9, (T, D), dtype=np.int8), np.full(T, 0.1, np.float32))
    return PolicyStep(context, draw(H, A), KEY, sketch, draw(L, DZ), draw(4), draw(P))


def experiences(count: int) -> Experiences:
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    steps = [
        Experience(
            f"r{i}", i, "reach the goal", Outcome.SUCCESS if i % 2 else Outcome.FAILURE, 20, draw(H, A), draw(H, A),
            draw(P), draw(P), draw(H, A), draw(P), draw(DZ), 0.5, 0.5, 0.1,
            draw(C),
        )
        for i in range(count)
    ]  # fmt: skip
    return Experiences.of(*steps)


def test_a_network_that_has_learnt_nothing_leaves_the_base_alone():
    assert not Efn(CONFIG).residual(present(), recalled()).any()


def test_the_residual_is_within_its_bounds_whatever_comes_in(efn):
    wild = each(recalled(), lambda x: x * 1e4 if x.is_floating_point() else x)
    residual = efn.residual(present(), wild)
    assert residual.shape == (5, H, A) and residual.any()
    assert (residual.abs() <= torch.tensor(CONFIG.bound)).all()


def test_recalled_steps_are_a_set(efn):
    now, memory, order = present(), recalled(), torch.randperm(6)
    expected = efn.residual(now, memory)
    torch.testing.assert_close(efn.residual(now, each(memory, lambda x: x[:, order])), expected)


def test_what_only_fills_up_says_nothing(efn):
    now, memory = present(), recalled()
    padded = each(memory, lambda x: torch.cat([x, x[:, :3]], dim=1))
    padded.there[:, 6:] = False
    torch.testing.assert_close(efn.residual(now, padded), efn.residual(now, memory))


@pytest.mark.parametrize("k", [0, 6])
def test_without_memory_the_residual_is_exactly_zero(efn, k):
    memory = recalled(k=k)
    memory.there[:] = False
    assert not efn.residual(present(), memory).any()


def test_a_network_that_remembers_nothing_corrects_all_the_same_whatever_is_recalled(efn):
    blind = Efn(replace(CONFIG, remembers=False)).eval()
    blind.load_state_dict(efn.state_dict())
    now = present()
    residual = blind.residual(now, recalled())
    assert residual.any()
    torch.testing.assert_close(blind.residual(now, recalled(k=0)), residual)


def test_one_by_one_is_the_same_as_a_batch(efn):
    now, memory = present(), recalled()
    together = efn.residual(now, memory)
    for i in range(5):
        one = Present(*(x[i : i + 1] for x in vars(now).values()))
        torch.testing.assert_close(efn.residual(one, each(memory, lambda x: x[i : i + 1])), together[i : i + 1])  # noqa: B023


def test_every_recalled_cue_and_the_present_step_matter(efn):
    now, memory = present(), recalled()
    expected = efn.residual(now, memory)
    for name in (*MOTION, "base", "latent", "code", "success", "similarity"):
        changed = replace(memory, **{name: getattr(memory, name) + 1})
        if name == "latent":  # a shift of all channels is normalised away
            changed = replace(memory, latent=memory.latent.flip(-1))
        assert not torch.allclose(efn.residual(now, changed), expected), name
    for name in ("latent", "sketch", "proprio", "base"):
        changed = replace(now, **{name: getattr(now, name).flip(-1)})
        assert not torch.allclose(efn.residual(changed, memory), expected), name


def test_gradients_reach_every_parameter(efn):
    features = efn.features(present(), recalled())
    mean, log_std = efn.actor(features)
    (mean.sum() + log_std.sum() + efn.identify(features).sum()).backward()
    silent = [name for name, p in efn.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_the_papers_size_is_that_of_its_appendix():
    paper = SIZES["paper"]
    assert paper == {"width": 1024, "heads": 16, "layers": 2, "feedforward": 4096}


# In latent space the head speaks of the tokens, (L, dz)

LATENT_BOUND = tuple(0.1 * i for i in range(DZ))  # the first channel may not change at all
LATENT = replace(CONFIG, space="latent", latent_bound=LATENT_BOUND)


def speaking(config) -> Efn:
    torch.manual_seed(2)
    made = Efn(config).eval()
    torch.nn.init.normal_(made.head.weight)
    return made


def test_in_latent_space_what_is_learnt_is_a_change_of_the_tokens_and_at_first_none():
    assert not Efn(LATENT).residual(present(), recalled()).any()
    efn = speaking(LATENT)
    mean, log_std = efn(present(), recalled())
    change = efn.residual(present(), recalled())
    assert mean.shape == log_std.shape == change.shape == (5, L, DZ) and change.any()
    assert not efn.residual(present(), recalled(k=0)).any()


@settings(deadline=None, max_examples=30)
@given(st.floats(-(2.0**120), 2.0**120, width=32), st.integers(0, 2**32 - 1))
def test_a_channel_changes_by_no_more_than_its_bound(size, seed):
    mean = size * torch.randn(5, L, DZ, generator=torch.Generator().manual_seed(seed))
    change = Efn(LATENT).bounded(mean, recalled())
    assert (change.abs() <= torch.tensor(LATENT_BOUND)).all() and not change[..., 0].any()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"space": "joint"}, "space is 'joint'; there are 'action', 'latent'"),
        ({"space": "latent"}, "latent_bound has 0 entries; space 'latent' asks for 8"),
        ({"latent_bound": LATENT_BOUND}, "latent_bound has 8 entries; space 'action' asks for 0"),
        ({"space": "latent", "latent_bound": (-1.0,) * DZ}, "latent_bound is .* finite and at least 0"),
        ({"space": "latent", "latent_bound": (np.inf,) * DZ}, "latent_bound is .* finite and at least 0"),
        ({"space": "latent", "latent_bound": (np.nan,) * DZ}, "latent_bound is .* finite and at least 0"),
    ],
)
def test_a_space_that_does_not_fit_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **changes)


def test_who_needs_residuals_on_the_action_refuses_a_checkpoint_of_another_space(efn, tmp_path):
    efn.save_pretrained(tmp_path / "action")
    require_action_space(tmp_path / "action", "reinforcement learning")
    Efn(LATENT).save_pretrained(tmp_path / "latent")
    with pytest.raises(
        ValueError, match="latent has space 'latent', but reinforcement learning needs .* --space action"
    ):
        require_action_space(tmp_path / "latent", "reinforcement learning")


# Checkpoints


def test_a_checkpoint_of_latent_space_comes_back(tmp_path):
    efn, now, memory = speaking(LATENT), present(), recalled()
    efn.save_pretrained(tmp_path)
    back = Efn.from_pretrained(tmp_path)
    assert back.config == LATENT
    torch.testing.assert_close(back.residual(now, memory), efn.residual(now, memory), rtol=0, atol=0)


def test_a_checkpoint_from_before_there_were_spaces_is_one_of_the_action(efn, tmp_path):
    efn.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["space"], config["latent_bound"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Efn.from_pretrained(tmp_path).config == CONFIG


def test_a_checkpoint_comes_back(efn, tmp_path):
    efn.save_pretrained(tmp_path)
    back = Efn.from_pretrained(tmp_path)
    assert back.config == efn.config and not back.training
    now, memory = present(), recalled()
    torch.testing.assert_close(back.residual(now, memory), efn.residual(now, memory), rtol=0, atol=0)


def test_a_checkpoint_that_is_none_or_does_not_fit_is_named(efn, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        Efn.from_pretrained(tmp_path)
    efn.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"width": 32', '"width": 64'))
    with pytest.raises(ValueError, match=r"does not fit its configuration: .* is \(.*\), not \(.*\)"):
        Efn.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"width"', '"depth"'))
    with pytest.raises(ValueError, match="no configuration of an EFN: .*depth"):
        Efn.from_pretrained(tmp_path)


def test_a_bound_for_each_entry_of_an_action_is_asked_for():
    with pytest.raises(ValueError, match="bound has 1 entries, but an action has 2"):
        replace(CONFIG, bound=(0.5,))


# Critics


@pytest.fixture
def critics() -> EfnCritics:
    torch.manual_seed(1)
    return EfnCritics(CONFIG, 3).eval()


def test_critics_read_every_input_and_the_residual(critics):
    now, memory, action = present(), recalled(), torch.randn(5, H, A, requires_grad=True)
    inputs = [x.requires_grad_() for x in (*vars(now).values(), *vars(memory).values()) if x.is_floating_point()]
    for i in range(critics.n):
        value = critics(now, memory, action, members=torch.tensor([i]))
        gradients = torch.autograd.grad(value.sum(), [*inputs, action])
        assert value.shape == (1, 5) and all((g != 0).flatten(1).any(dim=1).all() for g in gradients)


def test_to_critics_recalled_steps_are_a_set_and_what_fills_up_says_nothing(critics):
    now, memory, action = present(), recalled(), torch.randn(5, H, A)
    expected = critics(now, memory, action)
    order = torch.randperm(6)
    torch.testing.assert_close(critics(now, each(memory, lambda x: x[:, order]), action), expected)
    padded = each(memory, lambda x: torch.cat([x, x[:, :3]], dim=1))
    padded.there[:, 6:] = False
    torch.testing.assert_close(critics(now, padded, action), expected)


def test_critics_differ_and_some_can_be_asked(critics):
    now, memory, action = present(), recalled(), torch.randn(5, H, A)
    values = critics(now, memory, action)
    assert values.shape == (3, 5) and (values.std(dim=0) > 0).all()
    assert torch.equal(critics(now, memory, action, members=torch.tensor([2, 0])), values[[2, 0]])


def test_a_dimension_without_a_residual_tells_critics_nothing():
    critics = EfnCritics(replace(CONFIG, bound=(0.5, 0.0)))
    assert critics(present(), recalled(), torch.zeros(5, H, A)).isfinite().all()


def test_critics_lie_beside_the_actor(efn, critics, tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        EfnCritics.from_pretrained(tmp_path)
    efn.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="critics.safetensors is missing"):
        EfnCritics.from_pretrained(tmp_path)
    critics.save_pretrained(tmp_path)
    back, now, memory, action = EfnCritics.from_pretrained(tmp_path), present(), recalled(), torch.randn(5, H, A)
    assert back.n == 3 and torch.equal(back(now, memory, action), critics(now, memory, action))
    Efn(replace(CONFIG, width=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="critics.safetensors does not fit its configuration: members.0"):
        EfnCritics.from_pretrained(tmp_path)


# As the corrector sees it


@pytest.fixture
def learned(efn, tmp_path) -> LearnedResidual:
    efn.save_pretrained(tmp_path)
    return LearnedResidual(tmp_path)


def test_the_corrector_gets_what_the_network_says(efn, learned):
    memory = experiences(4)
    residual, reason, _ = learned(step(), Recall(memory, drawn=0, codes=efn.codes.identity))
    expected = efn.residual(present_of(step()), recalled_of(memory, CONFIG))[0]
    assert reason == "" and residual.dtype == np.float32
    np.testing.assert_allclose(residual, expected.detach().numpy(), rtol=0, atol=0)


def test_what_a_recalled_step_saw_is_encoded_as_the_network_would(efn, tmp_path):
    sketches = [Quantised(np.full((T, D), i, np.int8), np.full(T, 0.1, np.float32)) for i in range(3)]
    tensors = torch.from_numpy(np.stack([sketch.dequantise() for sketch in sketches]))
    np.testing.assert_allclose(efn.codes(sketches), efn.code(tensors).detach(), atol=2e-3)
    efn.save_pretrained(tmp_path)
    loaded, plain = Codes.load(tmp_path / WEIGHTS), Efn(replace(CONFIG, codes=0))
    assert loaded.identity == efn.codes.identity and plain.codes is None
    plain.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no codes; name another EFN, or none, in codes"):
        Codes.load(tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="the EFN reads 3 numbers of what a recalled step saw, not 0"):
        recalled_of(Experiences.of(replace(experiences(1)[0], code=np.zeros(0, np.float32))), CONFIG)
    assert recalled_of(experiences(1), plain.config).code.shape == (1, 1, 0)


def test_codes_of_another_network_are_not_read(efn, learned):
    proposal = learned(step(), Recall(experiences(4), drawn=0, codes="of another"))
    assert not proposal.residual.any() and proposal.reason.startswith("what was seen is not recalled as the EFN reads")


def test_what_the_episode_has_shown_is_told_as_memory_tells_it():
    """Decision by decision: where the robot was, what it did, where that led; before the first one it stood still."""
    rng = np.random.default_rng(0)
    past = [Past(rng.normal(size=P), rng.normal(size=(H, A))) for _ in range(5)]
    now, config = rng.normal(size=P), replace(CONFIG, recent=3)
    for known in range(6):
        recent = recent_of(past[:known], now, config)
        assert recent.happened.tolist() == [[i < known for i in range(3)]]
        for slot in range(min(known, 3)):
            i = slot + max(known - 3, 0)
            before = past[i - 1].executed if i else np.zeros((H, A))
            after = past[i + 1].proprio if i + 1 < known else now
            for name, value in (
                ("executed", past[i].executed),
                ("proprio", past[i].proprio),
                ("proprio_next", after),
                ("executed_before", before),
                ("proprio_before", past[max(i - 1, 0)].proprio),
            ):
                np.testing.assert_allclose(getattr(recent, name)[0, slot], value, rtol=1e-6, err_msg=f"{name} {i}")


def test_only_what_came_after_a_chunk_of_another_size_is_told():
    past = [Past(np.ones(P) * i, np.ones((H + (i == 2), A)) * i) for i in range(5)]
    recent = recent_of(past, np.zeros(P), replace(CONFIG, recent=4))
    assert recent.happened.tolist() == [[True, True, False, False]]
    assert recent.executed[0, :2, 0, 0].tolist() == [3.0, 4.0]
    assert not recent.executed_before[0, 0].any()


@pytest.fixture
def doubting(efn) -> Efn:
    torch.manual_seed(1)
    made = Efn(replace(CONFIG, recent=3)).eval()
    made.load_state_dict(efn.state_dict(), strict=False)
    return made


def test_trust_is_a_share_and_what_it_reads_are_sets(doubting):
    now, memory, order = present(), recalled(), torch.randperm(6)
    past = [Past(np.ones(P) * i, np.ones((H, A)) * i) for i in range(2)]
    recent = recent_of(past, np.ones(P), doubting.config)
    recent = each(recent, lambda x: x.expand(5, *x.shape[1:]).clone())
    trust, tells = doubting.trusts(now, memory, recent)
    assert trust.shape == (5,) and ((trust >= 0) & (trust <= 1)).all()
    assert [t.shape for t in tells] == [(5, CONFIG.identified)] * 4
    turned = doubting.trusts(now, each(memory, lambda x: x[:, order]), each(recent, lambda x: x[:, [1, 0, 2]]))[0]
    torch.testing.assert_close(turned, trust)
    recent.executed[:, 2] = 7.0  # which never happened
    torch.testing.assert_close(doubting.trusts(now, memory, recent)[0], trust)
    for changed in (replace(memory, code=memory.code + 1), replace(memory, proprio_next=memory.proprio_next + 1)):
        assert not torch.allclose(doubting.trusts(now, changed, recent)[0], trust)


def test_the_residual_is_scaled_by_trust(efn, doubting, tmp_path):
    efn.save_pretrained(tmp_path / "blind")
    doubting.save_pretrained(tmp_path / "doubting")
    memory, past = (
        Recall(experiences(4), drawn=0, codes=efn.codes.identity),
        [Past(np.zeros(P, np.float32), np.ones((H, A), np.float32))],
    )
    whole, part = (LearnedResidual(tmp_path / name)(step(), memory, past) for name in ("blind", "doubting"))
    recent = recent_of(past, step().proprio, doubting.config)
    trust = doubting.trusts(present_of(step()), recalled_of(memory.steps, CONFIG), recent)[0].item()
    assert whole.trust == 1.0 and part.trust == trust and 0 < trust < 1
    np.testing.assert_allclose(part.residual, trust * whole.residual, rtol=1e-6)
    unchecked = LearnedResidual(tmp_path / "doubting", check_memory=False)(step(), memory, past)
    assert unchecked.trust == 1.0
    np.testing.assert_array_equal(unchecked.residual, whole.residual)


POLICY = load_policy(
    "untrained", cameras=("left",), image_size=32, keypoint_tokens=1, width=DZ, heads=2, latent_tokens=L, horizon=H,
    proprio_size=P, action_low=(-1.0,) * A, action_high=(1.0,) * A,
)  # fmt: skip
assert (POLICY.spec.latent, POLICY.spec.tokens[0]) == ((L, DZ), T)
DECODER = {"decode": POLICY.decode, "policy": POLICY.spec.fingerprint}
MEMORY = Recall(experiences(4), drawn=0)


def decodable() -> PolicyStep:
    """A step of that policy, with its visual tokens."""
    visual = np.random.default_rng(3).standard_normal(POLICY.spec.tokens, dtype=np.float32)
    return replace(step(), visual=visual, policy=POLICY.spec.fingerprint)


@pytest.fixture
def latent(tmp_path) -> Efn:
    """Its checkpoint is the directory `latent`."""
    made = speaking(replace(LATENT, codes=0, latent_bound=(2.0,) * DZ))
    made.save_pretrained(tmp_path / "latent")
    return made


def test_in_latent_space_the_corrector_gets_what_the_frozen_decoder_makes_of_it(latent, tmp_path):
    now = decodable()
    proposal = LearnedResidual(tmp_path / "latent", gain=0.5, **DECODER)(now, MEMORY)
    change = latent.residual(present_of(now), recalled_of(MEMORY.steps, latent.config))[0].detach().numpy()
    expected = POLICY.decode(now.latent + change, now.visual) - POLICY.decode(now.latent, now.visual)
    assert proposal.reason == "" and proposal.residual.dtype == np.float32 and proposal.residual.any()
    np.testing.assert_array_equal(proposal.residual, np.float32(0.5) * expected)


def test_an_actor_that_changes_no_token_leaves_the_base_alone_to_the_last_bit(tmp_path):
    Efn(replace(LATENT, codes=0)).save_pretrained(tmp_path)
    residual, reason, _ = LearnedResidual(tmp_path, **DECODER)(decodable(), MEMORY)
    assert not residual.any() and residual.shape == (H, A) and reason == ""


def test_without_a_decoder_a_checkpoint_of_latent_space_is_refused(latent, tmp_path):
    with pytest.raises(
        ValueError, match="latent has space 'latent', but nothing decodes .* decoder_policy of efn_corrector"
    ):
        LearnedResidual(tmp_path / "latent")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"visual": None}, "came without its visual tokens; set publish_visual of vla_policy"),
        (
            {"policy": "another"},
            "of policy 'another', but latent tokens are decoded by 'untrained-.*decoder_checkpoint",
        ),
    ],
)
def test_what_cannot_be_decoded_gives_no_residual_and_says_why(latent, tmp_path, change, words):
    residual, reason, _ = LearnedResidual(tmp_path / "latent", **DECODER)(replace(decodable(), **change), MEMORY)
    assert not residual.any() and residual.shape == (H, A)
    assert re.search(words, reason)


def test_on_the_action_no_decoder_is_asked(efn, learned, tmp_path):
    """Whatever it is given, and without visual tokens."""
    efn.save_pretrained(tmp_path)
    told = LearnedResidual(tmp_path, decode=lambda *_: 1 / 0, policy="another")
    memory = Recall(experiences(4), drawn=0, codes=efn.codes.identity)
    np.testing.assert_array_equal(told(step(), memory).residual, learned(step(), memory).residual)


def test_where_nothing_was_recalled_it_says_why(learned):
    residual, reason, _ = learned(step(), Recall(reason="the bank is empty"))
    assert not residual.any() and residual.shape == (H, A) and reason == "the bank is empty"


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"base": np.zeros((H, A + 1), np.float32)},
            r"base action of the step has shape \(3, 3\); the EFN takes \(3, 2\)",
        ),
        ({"latent": np.zeros((1, DZ), np.float32)}, "latent of the step"),
        ({"sketch": KEY}, "sketch of the step"),
        ({"proprio": np.zeros(P - 1, np.float32)}, "proprioception of the step"),
    ],
)
def test_a_step_of_another_size_is_named(learned, change, words):
    with pytest.raises(ValueError, match=words):
        learned(replace(step(), **change), Recall(experiences(2), drawn=0))


def test_where_critics_disagree_less_of_the_residual_is_left(efn, critics, tmp_path):
    efn.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="disagreement_scale is 0.5, but .* has no critics.safetensors; set it"):
        LearnedResidual(tmp_path, disagreement_scale=0.5)
    critics.save_pretrained(tmp_path)
    memory = experiences(4)
    observation = present_of(step()), recalled_of(memory, CONFIG)
    with torch.no_grad():
        whole = efn.residual(*observation)
        disagreement = critics(*observation, whole).std(dim=0, correction=0).item()
    for scale, share in ((0.0, 1.0), (disagreement, 0.5), (disagreement / 2, 0.25)):
        residual, reason, _ = LearnedResidual(tmp_path, disagreement_scale=scale)(
            step(), Recall(memory, drawn=0, codes=efn.codes.identity)
        )
        np.testing.assert_allclose(residual, share * whole[0].numpy(), rtol=1e-5)
        assert reason == "" and residual.dtype == np.float32
