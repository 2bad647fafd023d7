# SPDX-License-Identifier: MIT
"""Augmentation: the same motion by other arms, and memories of other deployments."""

import numpy as np
import torch
from sample_deployments import H

from efn_ros.efn.batching import Present
from efn_ros.training.augmentation import Arm, augment_arms, negative_memories
from efn_ros.worlds.deployment import MAX_GAIN_LOG, MAX_OFFSET, MAX_YAW_RAD, Deployment


def test_a_negative_memory_is_of_the_most_similar_state_in_another_deployment():
    proprio = torch.tensor([[0.0], [0.1], [0.9], [0.3]])
    now = Present(proprio, proprio, proprio, proprio)
    own = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert negative_memories(now, own, np.random.default_rng(0), 1.0).tolist() == [3, 3, 1, 1]
    assert negative_memories(now, own, np.random.default_rng(0), 0.0).tolist() == [0, 1, 2, 3]


def test_an_arm_equals_a_deployment_row_by_row():
    rng = np.random.default_rng(0)
    arm = Arm.draw(50, rng)
    actions = rng.uniform(-0.3, 0.3, (50, 6, 4, 5)).astype(np.float32)
    undone = arm.inverse(actions)
    for i in range(50):
        shift = Deployment(offset=tuple(arm.offset[i]), gain=float(arm.gain[i]), yaw_rad=float(arm.yaw_rad[i]))
        np.testing.assert_allclose(undone[i][..., :3], np.clip(shift.inverse(actions[i][..., :3]), -1, 1), atol=1e-6)
    np.testing.assert_array_equal(undone[..., 3:], actions[..., 3:])
    assert (arm.gain == 1).any() and (arm.gain != 1).any() and (arm.yaw_rad == 0).any()


def test_an_augmented_arm_preserves_every_motion_and_the_present_base():
    """The other arm executes the changed commands as the same motion."""
    rng = np.random.default_rng(0)
    memory = {name: rng.uniform(-0.2, 0.2, (20, 5, H, 4)).astype(np.float32) for name in ("executed", "base")}
    samples = {name: rng.uniform(-0.2, 0.2, (20, H, 4)).astype(np.float32) for name in ("base", "target")}
    samples["deployment"] = rng.uniform(-1, 1, (20, 12)).astype(np.float32)
    own = samples["deployment"].copy()
    before = {
        name: array.copy() for name, array in (memory | {"now": samples["base"], "aim": samples["target"]}).items()
    }
    rows = np.arange(5, 20)
    augment_arms(memory, samples, rows, (9.0,) * 4, np.random.default_rng(7))
    arm = Arm.draw(len(rows), np.random.default_rng(7))
    np.testing.assert_array_equal(samples["base"], before["now"])
    for i, row in enumerate(rows):
        shift = Deployment(offset=tuple(arm.offset[i]), gain=float(arm.gain[i]), yaw_rad=float(arm.yaw_rad[i]))
        for now, then in (
            (memory["executed"][row], before["executed"][row]),
            (samples["base"][row] + samples["target"][row], before["now"][row] + before["aim"][row]),
        ):
            commands = now[..., :3].reshape(-1, 3)
            free = (np.abs(commands) < 1).all(axis=1)  # more than full speed is clipped
            moved = np.stack([shift.move(command) for command in commands])
            np.testing.assert_allclose(moved[free], then[..., :3].reshape(-1, 3)[free], atol=1e-5)
    np.testing.assert_array_equal(memory["executed"][:5], before["executed"][:5])
    np.testing.assert_array_equal(samples["target"][:5], before["aim"][:5])
    # The target of identification is the composition of the drawn arm and that of the deployment.
    for i, row in enumerate(rows):
        first = Deployment(offset=tuple(arm.offset[i]), gain=float(arm.gain[i]), yaw_rad=float(arm.yaw_rad[i]))
        second, whole = deployment_of(own[row]), deployment_of(samples["deployment"][row])
        command = rng.uniform(-1, 1, 3)
        np.testing.assert_allclose(whole.move(command), second.move(first.move(command)), atol=1e-5)
    np.testing.assert_array_equal(samples["deployment"][:, 5:], own[:, 5:])


def deployment_of(coordinates) -> Deployment:
    offset, gain, yaw = (
        coordinates[:3] * MAX_OFFSET,
        np.exp(coordinates[3] * MAX_GAIN_LOG),
        coordinates[4] * MAX_YAW_RAD,
    )
    return Deployment(offset=tuple(offset.tolist()), gain=float(gain), yaw_rad=float(yaw))
