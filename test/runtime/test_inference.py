# SPDX-License-Identifier: MIT
"""Inference: what travels of a policy's output, and what it refuses to look at."""

import dataclasses

import numpy as np
import pytest

from efn_ros.features.sketches import Projection
from efn_ros.policies.constant import ConstantPolicy
from efn_ros.runtime.inference import Inference
from efn_ros.types import Observation, StepContext

PROJECTION = Projection(24, 16, seed=3)
CONTEXT = StepContext("e0", 2, 300, "reach", "reach the goal", seed=7)


@pytest.fixture
def inference():
    return Inference(ConstantPolicy(image_size=8, proprio_size=3, action=[0.1, 0.2], tokens=(6, 24)), PROJECTION)


def observation(**changes):
    images = {camera: np.zeros((8, 8, 3), np.uint8) for camera in ("left", "right")}
    return dataclasses.replace(Observation(CONTEXT, images, np.float32([1, 2, 3])), **changes)


def test_a_policy_step_holds_the_compact_form_of_the_output(inference):
    step, output = inference(observation()), inference.policy.infer(observation())
    assert step.context == CONTEXT
    np.testing.assert_array_equal(step.base, output.action)
    np.testing.assert_array_equal(step.latent, output.latent)
    np.testing.assert_array_equal(step.proprio, np.float32([1, 2, 3]))
    np.testing.assert_array_equal(step.instruction_embedding, inference.policy.embed_instruction("reach the goal"))
    for mine, theirs in (
        (step.key, PROJECTION.describe(output.visual)),
        (step.sketch, PROJECTION.sketch(output.visual)),
    ):
        np.testing.assert_array_equal(mine.q, theirs.q)
        np.testing.assert_array_equal(mine.scale, theirs.scale)
    assert (step.key.q.shape, step.sketch.q.shape) == ((16,), (6, 16))
    assert (step.policy, step.projection) == ("constant-0", PROJECTION.identity)


def test_more_cameras_than_the_policy_wants_do_not_matter(inference):
    images = observation().images
    np.testing.assert_array_equal(
        inference(observation(images={"top": images["left"][:4], **images})).base, inference(observation()).base
    )


LEFT = {"left": np.zeros((8, 8, 3), np.uint8)}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": {}}, r"image of camera 'left' is missing; the observation has \[\]"),
        ({"images": LEFT}, r"image of camera 'right' is missing; the observation has \['left'\]"),
        (
            {"images": {**LEFT, "right": np.zeros((8, 9, 3), np.uint8)}},
            r"image of camera 'right' has shape \(8, 9, 3\); the policy takes \(8, 8, 3\)",
        ),
        (
            {"images": {**LEFT, "right": np.zeros((8, 8), np.uint8)}},
            r"image of camera 'right' has shape \(8, 8\); the policy takes \(8, 8, 3\)",
        ),
        ({"proprio": np.zeros(4, np.float32)}, r"proprioception has shape \(4,\); the policy takes \(3,\)"),
        ({"proprio": np.zeros((1, 3), np.float32)}, r"proprioception has shape \(1, 3\); the policy takes \(3,\)"),
        ({"proprio": np.float32([0, np.nan, 0])}, r"proprioception\[1\] is not finite"),
        ({"proprio": np.float32([0, 0, -np.inf])}, r"proprioception\[2\] is not finite"),
        ({"context": dataclasses.replace(CONTEXT, instruction="")}, "the instruction is empty"),
        ({"context": dataclasses.replace(CONTEXT, instruction=" \t\n")}, "the instruction is empty"),
    ],
)
def test_an_observation_that_the_policy_cannot_take_is_refused_and_named(inference, changes, message):
    with pytest.raises(ValueError, match=message):
        inference(observation(**changes))


def test_visual_tokens_of_another_width_than_the_projection_are_named():
    mismatched = Inference(ConstantPolicy(image_size=8, proprio_size=3, tokens=(6, 20)), PROJECTION)
    with pytest.raises(ValueError, match="visual tokens have 20 channels; projection .* takes 24"):
        mismatched(observation())
