# SPDX-License-Identifier: MIT
"""PocketVLA: deterministic, the same after a round trip over the disk, and moved by what it sees and is told."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from efn_ros.policies.pocket_vla.model import Block, PocketVla, PocketVlaConfig
from efn_ros.policies.pocket_vla.policy import PACKAGED, PocketVlaPolicy
from efn_ros.policies.pocket_vla.processor import PocketVlaProcessor, train_tokenizer
from efn_ros.policies.registry import load_policy
from efn_ros.types import Observation, StepContext
from efn_ros.worlds.libero import LiberoWorld
from efn_ros.worlds.libero_files import SUITES, find_files
from efn_ros.worlds.stepper import Stepper

TINY = dict(
    cameras=("head", "hand"),
    image_size=32,
    horizon=3,
    width=16,
    heads=2,
    latent_tokens=2,
    keypoints=4,
    keypoint_tokens=2,
    text_width=8,
    action_low=(-1.0, -0.5, 0.0),
    action_high=(1.0, 0.25, 1.0),
)
INSTRUCTIONS = ("open the drawer", "close the drawer", "push the puck to the ball", "turn the faucet on", "å, 杯子, 🤖")
any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def build(seed=0, **changes):
    tokenizer = train_tokenizer(INSTRUCTIONS[:3], 300)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PocketVla(PocketVlaConfig(vocabulary_size=len(tokenizer), **{**TINY, **changes}))
    return model, PocketVlaProcessor(tokenizer)


def save(directory, model, processor):
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def observe(policy, images="noise", instruction="open the drawer", proprio=None):
    rng, spec = np.random.default_rng(0), policy.spec
    shape = (spec.image_size, spec.image_size, 3)
    drawn = {c: rng.integers(0, 256, shape, np.uint8) for c in spec.cameras}
    pictures = drawn if images == "noise" else dict.fromkeys(spec.cameras, np.full(shape, images, np.uint8))
    proprio = rng.uniform(-0.2, 0.6, spec.proprio_size).astype(np.float32) if proprio is None else proprio
    return Observation(StepContext("e0", 0, 0, "task", instruction), pictures, proprio)


def parts(output):
    return dataclasses.astuple(output)


@pytest.fixture(scope="module")
def policy():
    return PocketVlaPolicy(*build(), name="pocket_vla")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("checkpoint"), *build())


# Outputs


def test_outputs_have_the_shapes_of_the_spec_and_are_finite(policy):
    output, spec = policy.infer(observe(policy)), policy.spec
    assert output.latent.shape == spec.latent == (2, 16)
    assert output.visual.shape == spec.tokens == (2 * (4 + 2), 16)
    assert output.action.shape == (spec.horizon, spec.action_size) == (3, 3)
    for part in parts(output):
        assert part.dtype == np.float32 and np.isfinite(part).all()


def test_the_same_input_gives_the_same_bits(policy):
    first, second = policy.infer(observe(policy)), policy.infer(observe(policy))
    policy.infer(observe(policy, images=9))
    third = policy.infer(observe(policy))
    for one, two, three in zip(parts(first), parts(second), parts(third), strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()


def test_actions_stay_within_the_bounds_of_the_config(policy):
    rng = np.random.default_rng(0)
    low, high = np.float32(TINY["action_low"]), np.float32(TINY["action_high"])
    visual = policy.infer(observe(policy)).visual
    actions = [policy.decode(rng.normal(scale=1000, size=(2, 16)).astype(np.float32), visual) for _ in range(20)]
    assert (np.stack(actions) >= low).all() and (np.stack(actions) <= high).all()
    assert np.ptp(actions, axis=0).max() > 0.1


def test_decoding_its_own_latent_tokens_gives_its_action_again(policy):
    """Equation (2): the action is a function of Z and V alone."""
    output = policy.infer(observe(policy))
    policy.infer(observe(policy, images=7, instruction="turn the faucet on"))
    assert policy.decode(output.latent, output.visual).tobytes() == output.action.tobytes()
    assert policy.decode(output.latent + 1, output.visual).tobytes() != output.action.tobytes()
    assert policy.decode(output.latent, output.visual[::-1].copy() * 2).tobytes() != output.action.tobytes()


@pytest.mark.parametrize("shapes, words", [(((2, 15), (12, 16)), "latent tokens"), (((2, 16), (11, 16)), "visual")])
def test_tokens_of_another_shape_are_not_decoded(policy, shapes, words):
    with pytest.raises(ValueError, match=rf"{words}.* have shape \(.*\); the decoder of pocket_vla takes \(.*16\)"):
        policy.decode(*(np.zeros(shape, np.float32) for shape in shapes))


def test_its_decoder_is_frozen_decodes_in_batches_and_lets_gradients_through_to_the_tokens(policy):
    fingerprint, decoder = policy.spec.fingerprint, policy.decoder()
    latent = torch.randn(5, *policy.spec.latent, requires_grad=True)
    visual = torch.randn(5, *policy.spec.tokens)
    action = decoder(latent, visual)
    for i in range(5):
        one = policy.decode(latent[i].detach().numpy(), visual[i].numpy())
        np.testing.assert_allclose(action[i].detach().numpy(), one, atol=1e-6)
    action.sum().backward()
    assert latent.grad.any() and not any(p.requires_grad or p.grad is not None for p in decoder.parameters())
    torch.optim.AdamW(decoder.parameters(), 1.0, weight_decay=1.0).step()
    assert PocketVlaPolicy(policy._model, policy._processor, name="pocket_vla").spec.fingerprint == fingerprint


def test_images_change_the_visual_tokens(policy):
    black, noise = (policy.infer(observe(policy, images=images)) for images in (0, "noise"))
    assert np.abs(black.visual - noise.visual).max() > 1e-3


def test_cameras_are_taken_by_name_and_not_by_order(policy):
    observation = observe(policy)
    turned = dataclasses.replace(observation, images=dict(reversed(observation.images.items())))
    swapped = dict(zip(observation.images, reversed(observation.images.values()), strict=True))
    assert policy.infer(turned).visual.tobytes() == policy.infer(observation).visual.tobytes()
    other = policy.infer(dataclasses.replace(observation, images=swapped))
    assert other.visual.tobytes() != policy.infer(observation).visual.tobytes()


def test_the_instruction_and_proprioception_change_the_latent_tokens(policy):
    plain = policy.infer(observe(policy)).latent
    assert np.abs(policy.infer(observe(policy, instruction="turn the faucet on")).latent - plain).max() > 1e-4
    felt = policy.infer(observe(policy, proprio=np.float32([1, 1, 1, 1]))).latent
    assert np.abs(felt - plain).max() > 1e-4


def test_what_the_processor_makes_of_an_observation_is_what_the_policy_sees(policy):
    """For training and for integrators, who use model and processor themselves."""
    model, processor = build()
    observation = observe(policy, instruction="Open the DRAWER")
    features = processor(np.stack([*observation.images.values()])[None], [observation.context.instruction])
    with torch.inference_mode():
        text = model.embed_text(features["input_ids"], features["attention_mask"])
        latent, visual = model.encode(features["pixel_values"], torch.from_numpy(observation.proprio)[None], text)
        action = model.decode(latent, visual)
    output = policy.infer(observation)
    for mine, theirs in zip(parts(output), (latent, visual, action), strict=True):
        np.testing.assert_allclose(mine, theirs[0].numpy(), atol=1e-6)


def test_instructions_of_different_lengths_do_not_disturb_one_another(policy):
    _, processor = build()
    alone = [policy.embed_instruction(text) for text in INSTRUCTIONS]
    model, _ = build()
    encoded = processor.tokenizer([t.lower() for t in INSTRUCTIONS], padding=True, return_tensors="pt")
    together = F.normalize(model.embed_text(encoded["input_ids"], encoded["attention_mask"])).detach().numpy()
    np.testing.assert_allclose(together, alone, atol=1e-6)


# Instructions


@settings(max_examples=50, deadline=None)
@given(any_text)
def test_any_instruction_has_an_embedding_of_unit_norm(policy, text):
    embedding = policy.embed_instruction(text)
    assert embedding.shape == (TINY["text_width"],) and embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


def test_different_instructions_have_different_embeddings(policy):
    embeddings = np.stack([policy.embed_instruction(text) for text in INSTRUCTIONS])
    cosines = embeddings @ embeddings.T - np.eye(len(INSTRUCTIONS))
    assert cosines.max() < 0.999
    np.testing.assert_array_equal(policy.embed_instruction("Open The Drawer"), embeddings[0])


@settings(max_examples=50, deadline=None)
@given(any_text.filter(lambda text: "<pad>" not in text))
def test_unknown_text_falls_back_to_its_bytes(text):
    tokenizer = train_tokenizer(["open the drawer"], 300)
    ids = tokenizer(text)["input_ids"]
    assert ids and tokenizer.decode(ids, clean_up_tokenization_spaces=False).lstrip(" ") == text.lstrip(" ")
    assert len(ids) <= len(text.encode()) + 1


def test_known_words_are_shorter_than_their_bytes():
    tokenizer = train_tokenizer(INSTRUCTIONS, 300)
    assert len(tokenizer("open the drawer")["input_ids"]) < len("open the drawer") / 2


# Over the disk


def test_a_checkpoint_gives_the_same_bits_after_loading(policy, checkpoint):
    """Every buffer travels in the file: what does not is garbage after transformers has loaded the rest."""
    loaded = PocketVlaPolicy.from_pretrained(checkpoint)
    assert loaded.spec == policy.spec
    for images in (0, "noise"):
        before, after = (p.infer(observe(p, images=images)) for p in (policy, loaded))
        for one, two in zip(parts(before), parts(after), strict=True):
            assert np.isfinite(two).all() and one.tobytes() == two.tobytes()
    for text in INSTRUCTIONS:
        assert loaded.embed_instruction(text).tobytes() == policy.embed_instruction(text).tobytes()


def test_the_config_comes_back(checkpoint):
    config, loaded = PocketVlaConfig(**TINY), PocketVlaConfig.from_pretrained(checkpoint)
    for name in TINY:
        value = getattr(config, name)
        assert getattr(loaded, name) == value
        assert value == (list(TINY[name]) if isinstance(TINY[name], tuple) else TINY[name])


def test_load_policy_takes_the_directory_of_a_checkpoint(policy, checkpoint):
    assert load_policy("pocket_vla", checkpoint=checkpoint).spec == policy.spec


def test_a_directory_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no PocketVLA checkpoint in {tmp_path}: config.json is missing"):
        load_policy("pocket_vla", checkpoint=tmp_path)


def test_a_checkpoint_without_weights_is_an_error(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "torn")
    (tmp_path / "torn" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        PocketVlaPolicy.from_pretrained(tmp_path / "torn")


# The fingerprint


def test_the_fingerprint_changes_with_any_weight_and_with_nothing_else(policy):
    model, processor = build()

    def fingerprint() -> str:
        return PocketVlaPolicy(model, processor, name="pocket_vla").spec.fingerprint

    assert fingerprint() == policy.spec.fingerprint
    PocketVlaPolicy(model, processor, name="pocket_vla").infer(observe(policy))
    assert fingerprint() == policy.spec.fingerprint
    for name, tensor in model.state_dict().items():
        last = tensor.view(-1)[-1:]
        kept = last.clone()
        last.copy_(torch.nextafter(kept, torch.tensor(torch.inf)))
        assert fingerprint() != policy.spec.fingerprint, name
        last.copy_(kept)
    assert fingerprint() == policy.spec.fingerprint


# The network's parts


def test_a_block_is_attention_as_torch_computes_it():
    torch.manual_seed(0)
    block, x, context = Block(16, 4), torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    for over in (None, context):
        told = block.norm_context(x if over is None else over)
        heads = lambda t: t.reshape(3, -1, 4, 4).transpose(1, 2)  # noqa: E731
        key, value = block.key_value(told).split(16, dim=-1)
        attended = F.scaled_dot_product_attention(heads(block.query(block.norm_x(x))), heads(key), heads(value))
        y = x + block.out(attended.transpose(1, 2).reshape(3, 5, 16))
        torch.testing.assert_close(block(x, over), y + block.ffn(block.norm_ffn(y)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("height", [20.0, 3.0, 0.0])
def test_a_keypoint_lies_where_its_heatmap_has_its_peak(height):
    """The expected position under a softmax with one logit of `height` and zeros elsewhere, in closed form."""
    model, _ = build()
    side = TINY["image_size"] // 4
    peaks = [(0, 0), (7, 0), (2, 5), (7, 7)]  # column, row; one for each keypoint
    logits = torch.zeros(2, len(peaks), side, side)
    for k, (column, row) in enumerate(peaks):
        logits[:, k, row, column] = height
    model.to_heatmaps.register_forward_hook(lambda module, inputs, output: logits)
    with torch.inference_mode():
        images = torch.zeros(1, 2, 3, TINY["image_size"], TINY["image_size"])
        _, points, _ = model.encode_images(images, torch.zeros(1, TINY["text_width"]))
    share = (np.exp(height) - 1) / (np.exp(height) + side**2 - 1)
    expected = [[(2 * c + 1) / side - 1 for c, _ in peaks], [(2 * r + 1) / side - 1 for _, r in peaks]]
    np.testing.assert_allclose(points.reshape(2, 2, -1)[0], share * np.array(expected), atol=1e-6)
    np.testing.assert_allclose(points.reshape(2, 2, -1)[1], share * np.array(expected), atol=1e-6)


# Untrained, and the one in the package


def test_an_untrained_policy_is_the_network_at_random_by_its_seed():
    first, same = load_policy("untrained", **TINY), load_policy("untrained", **TINY)
    other = load_policy("untrained", seed=1, **TINY)
    assert first.spec == same.spec and first.spec.name == "untrained"
    assert first.spec.fingerprint != other.spec.fingerprint
    assert first.infer(observe(first)).action.tobytes() == same.infer(observe(same)).action.tobytes()


def test_making_an_untrained_policy_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    PocketVlaPolicy.untrained(**TINY)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world", ["metaworld", "libero"])
def test_a_packaged_checkpoint_works_is_small_and_has_a_model_card(world):
    policy = load_policy("pocket_vla", checkpoint=f"packaged:{world}")
    output = policy.infer(observe(policy))
    assert all(np.isfinite(part).all() for part in parts(output))
    assert policy.decode(output.latent, output.visual).tobytes() == output.action.tobytes()
    assert (PACKAGED / world / "README.md").read_text().strip()
    files = [file for file in (PACKAGED / world).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20 * 2**20
    assert not [file for file in files if file.suffix in (".bin", ".pkl", ".pt", ".pth")], "nothing is pickled"


@pytest.mark.simulator
def test_the_packaged_policy_of_libero_does_a_task_of_its_card():
    try:
        find_files(None, SUITES)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    card = json.loads((PACKAGED / "libero" / "card.json").read_text())
    task = max(card["tasks"], key=lambda name: card["tasks"][name]["success"])
    policy, world = load_policy("pocket_vla", checkpoint="packaged:libero"), LiberoWorld()

    def succeeds(seed: int) -> bool:
        stepper = Stepper(world, task, seed, execute_steps=policy.spec.horizon)
        while not stepper.done:
            images, proprio = world.observe()
            context = StepContext("e", 0, 0, task, world.spec.tasks[task])
            stepper.execute(policy.infer(Observation(context, images, proprio)).action)
        return stepper.success

    assert any(succeeds(seed) for seed in range(3)), "it said that it could"
    world.close()
