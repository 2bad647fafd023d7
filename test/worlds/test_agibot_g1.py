# SPDX-License-Identifier: MIT
"""The simulated G1: what its servo never does, what it refuses and how that is cleared, what it shows and sees."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efn_ros.robots.agibot_g1 import BASE, JOINTS, READY, load_arms
from efn_ros.worlds.agibot_g1 import ACCELERATION, MAX_DISTANCE_RAD, SOFT_LIMIT_RAD, SPEED, ArmState, G1Plant, Mode
from efn_ros.worlds.agibot_g1_scene import CAMERAS, FINGER_M

DT = 0.01
IN_CONTROL = (ArmState.IN_CONTROL, ArmState.IN_CONTROL)
OUT_OF_CONTROL = (ArmState.IDLE, ArmState.IDLE)
READY = np.array(READY)
FIRST = np.eye(len(JOINTS))[0]  # the left arm's first joint
thorough = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make(**settings) -> G1Plant:
    return G1Plant(**{"noise_rad": 0.0, "delay_s": 0.0, **settings})


def follow(plant, targets) -> np.ndarray:
    """Positions (n, 14) after the step that follows each command."""
    positions = []
    for target in targets:
        plant.command_arms(target)
        positions.append(plant.step().positions)
    return np.array(positions)


def ramp(distance, joint=0, steps=200, start=READY) -> np.ndarray:
    """Targets (steps, 14) that take a joint there and stop, as smoothly as a sine."""
    share = (1 - np.cos(np.pi * np.linspace(0, 1, steps))) / 2
    return start + distance * share[:, None] * np.eye(len(JOINTS))[joint]


def wave(steps, amplitude=0.2, hz=0.5) -> np.ndarray:
    """All joints to and fro, far within speed, acceleration and range."""
    phase = 2 * np.pi * hz * DT * np.arange(steps)
    return READY * (1 - amplitude * (1 - np.cos(phase[:, None])) / 2)


def until_still(plant) -> np.ndarray:
    """Positions from now until the arms have stood still for a while."""
    positions = [plant.state.positions]
    while len(positions) < 10 or not (positions[-10] == positions[-1]).all():
        positions.append(plant.step().positions)
        assert len(positions) < 500
    return np.array(positions)


# What the servo never does


@thorough
@given(st.data(), st.sampled_from([0.0, 0.02]))
def test_speed_acceleration_and_range_hold_whatever_is_commanded(data, delay_s):
    plant = make(delay_s=delay_s, check_rates=False)
    plant = make(delay_s=delay_s, check_rates=False, start=data.draw(postures(plant)))
    offset = hnp.arrays(np.float64, len(JOINTS), elements=st.floats(-0.26, 0.26))
    positions = [plant.state.positions] * 2
    for _ in range(data.draw(st.integers(1, 8))):
        drawn = data.draw(st.one_of(offset.map(np.sign).map(lambda sign: 0.26 * sign), offset, st.just(None)))
        for _ in range(data.draw(st.integers(1, 60))):
            if drawn is not None:
                plant.command_arms(np.clip(plant.state.positions + drawn, plant.low, plant.high))
            positions.append(plant.step().positions)
        plant.set_control_mode(Mode.SERVO)  # soft limits and collisions latch in between
    assert_physical(plant, np.array(positions))


def postures(plant):
    shares = hnp.arrays(np.float64, len(JOINTS), elements=st.floats(0, 1))
    return shares.map(lambda share: plant.low + share * (plant.high - plant.low))


def assert_physical(plant, positions):
    assert (plant.low <= positions).all() and (positions <= plant.high).all()
    assert np.abs(np.diff(positions, axis=0)).max() <= SPEED * DT + 1e-12
    assert np.abs(np.diff(positions, 2, axis=0)).max() <= ACCELERATION * DT**2 + 1e-12


def test_a_far_target_is_approached_at_full_acceleration_and_reached_without_overshoot():
    plant = make()
    plant.command_arms(READY + 0.26 * FIRST)
    way = until_still(plant)[:, 0] - READY[0]
    assert way[-1] == pytest.approx(0.26, abs=1e-12) and way.max() <= 0.26 + 1e-12
    assert way[1] == pytest.approx(ACCELERATION * DT**2)
    fastest = np.diff(way).max() / DT
    assert fastest == pytest.approx(np.sqrt(0.26 * ACCELERATION), rel=0.05)  # half the way up, half the way down


# Delay and noise


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_servo_follows_what_is_within_its_limits_exactly_and_as_late_as_asked(steps):
    targets = wave(300)
    positions = follow(make(delay_s=steps * DT), targets)
    np.testing.assert_allclose(positions[steps:], targets[: len(targets) - steps], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(positions[:steps], np.tile(READY, (steps, 1)))


def test_measurements_are_off_by_the_noise_that_was_asked_for_and_motion_is_not():
    noisy, exact = make(noise_rad=0.002), make()
    targets = wave(1000)
    error = follow(noisy, targets) - follow(exact, targets)
    assert error.std() == pytest.approx(0.002, rel=0.03)
    assert abs(error.mean()) < 0.0001
    assert abs(np.corrcoef(error[1:, 0], error[:-1, 0])[0, 1]) < 0.15


def test_a_seed_is_a_run_and_another_seed_is_another():
    runs = [follow(make(noise_rad=0.001, seed=seed), wave(50)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).all()


def test_a_command_that_is_not_renewed_is_held():
    plant = make()
    follow(plant, ramp(0.2))
    still = until_still(plant)
    np.testing.assert_allclose(still, np.tile(READY + 0.2 * FIRST, (len(still), 1)), rtol=0, atol=1e-12)
    assert plant.state.arm_states == IN_CONTROL


# What is refused


def test_a_new_robot_is_in_control_and_at_rest():
    state = make().state
    assert (state.stamp_s, state.mode, state.arm_states, state.estop) == (0.0, Mode.SERVO, IN_CONTROL, False)
    assert state.collision_pairs == ()
    np.testing.assert_array_equal(state.positions, READY)


@pytest.mark.parametrize(
    "joint, commands, code",
    [
        (3, [-1.49], ArmState.OUT_OF_RANGE),
        (10, [1.49], ArmState.OUT_OF_RANGE),
        (0, [np.nan], ArmState.OUT_OF_RANGE),
        (0, [READY[0] + MAX_DISTANCE_RAD], ArmState.OUT_OF_RANGE),
        (13, [READY[13] - MAX_DISTANCE_RAD], ArmState.OUT_OF_RANGE),
        (0, READY[0] + np.array([0.0, 0.031]), ArmState.OVER_SPEED),
        (7, READY[7] - np.array([0.0, 0.031]), ArmState.OVER_SPEED),
        (0, READY[0] + np.array([0.0, 0.0, 0.001]), ArmState.OVER_ACCELERATION),
        (7, READY[7] + np.array([0.0, 0.01, 0.01]), ArmState.OVER_ACCELERATION),
    ],
)
def test_what_is_refused_latches_shows_its_code_on_its_arm_and_moves_nothing(joint, commands, code):
    plant = make()
    target = READY.copy()
    for value in commands:
        target[joint] = value
        plant.command_arms(target)
    states = (code, ArmState.IDLE) if joint < 7 else (ArmState.IDLE, code)
    assert plant.step().arm_states == states
    np.testing.assert_array_equal(follow(plant, [READY + 0.01 * FIRST] * 20), np.tile(READY, (20, 1)))
    assert plant.state.arm_states == states and plant.state.mode == Mode.SERVO


def test_both_arms_show_what_each_did_wrong():
    plant = make()
    target = READY.copy()
    target[[3, 8]] = -1.49, READY[8] + 0.3
    plant.command_arms(target)
    assert plant.state.arm_states == (ArmState.OUT_OF_RANGE, ArmState.OUT_OF_RANGE)


def test_commands_at_the_documented_limits_are_followed():
    """From rest to 3 rad/s with 6 rad/s^2 and back, away from the table, in the rounding of float32."""
    speed = np.concatenate([np.arange(1, 51), np.arange(50, -1, -1)]) * ACCELERATION * DT**2
    assert speed.max() == pytest.approx(SPEED * DT)
    plant = make()
    follow(plant, (READY - np.cumsum(speed)[:, None] * FIRST).astype(np.float32))
    assert until_still(plant)[-1, 0] == pytest.approx(READY[0] - speed.sum(), abs=1e-6)
    assert plant.state.arm_states == IN_CONTROL


def test_the_first_command_may_be_nearly_as_far_as_allowed():
    plant = make()
    plant.command_arms(READY - (MAX_DISTANCE_RAD - 1e-6) * FIRST)
    assert plant.step().arm_states == IN_CONTROL


def test_rates_are_not_judged_where_that_is_not_wanted():
    plant = make(check_rates=False)
    follow(plant, [READY, READY + 0.2 * FIRST, READY - 0.02 * FIRST])
    assert plant.state.arm_states == IN_CONTROL


def test_control_mode_clears_what_was_latched_and_motion_goes_on_from_where_it_was():
    plant = make()
    plant.command_arms(READY + 1.0)
    plant.set_control_mode(Mode.SERVO)
    assert plant.step().arm_states == IN_CONTROL
    assert follow(plant, ramp(0.1))[-1, 0] == pytest.approx(READY[0] + 0.1)


# Stops

STOPS = {
    "motion stop": lambda plant: plant.stop_motion(),
    "stop mode": lambda plant: plant.set_control_mode(Mode.STOP),
    "planning mode": lambda plant: plant.set_control_mode(Mode.PLANNING),
    "emergency stop": lambda plant: plant.press_estop(),
    "error": lambda plant: plant.fail("right", ArmState.JOINT_OVERSPEED),
    "refused command": lambda plant: plant.command_arms(READY + 9),
    "collision": lambda plant: plant.collide([("arm_left_link5", "person")]),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("delay_s", [0.0, 0.05])
def test_a_stop_stops_within_the_braking_distance_whatever_is_commanded_after_it(stop, delay_s):
    plant = make(delay_s=delay_s)
    before = follow(plant, ramp(-1.2, steps=120)[:60])  # in full motion
    speed = (before[-1, 0] - before[-2, 0]) / DT
    assert speed < -1.0
    stop(plant)
    after = follow(plant, np.tile(READY - 1.2 * FIRST, (100, 1)))
    latency = DT  # a collision is seen in the step in which it happens
    assert abs(after[-1, 0] - before[-1, 0]) <= speed**2 / (2 * ACCELERATION) + (abs(speed) + SPEED * DT) * latency
    assert (after[-1] == after[-50]).all()
    assert ArmState.IN_CONTROL not in plant.state.arm_states
    assert_physical(plant, np.concatenate([before, after]))


def test_a_motion_stop_is_stop_mode_and_is_cleared_by_control_mode():
    plant = make()
    plant.stop_motion(input_type=54)
    state = plant.step()
    assert (state.mode, state.arm_states) == (Mode.STOP, OUT_OF_CONTROL)
    assert (follow(plant, ramp(0.1)) == READY).all()
    plant.set_control_mode(1, input_type=54)
    assert (plant.state.mode, plant.state.arm_states) == (Mode.SERVO, IN_CONTROL)
    assert follow(plant, ramp(0.1))[-1, 0] == pytest.approx(READY[0] + 0.1)


def test_another_input_type_or_mode_does_nothing():
    plant = make()
    plant.stop_motion(input_type=1)
    plant.set_control_mode(Mode.STOP, input_type=1)
    plant.set_control_mode(7)
    assert plant.state.mode == Mode.SERVO


def test_an_emergency_stop_holds_until_the_button_is_released_and_control_is_asked_for():
    plant = make()
    plant.press_estop()
    plant.set_control_mode(Mode.SERVO)
    state = plant.step()
    assert (state.estop, state.mode, state.arm_states) == (True, Mode.STOP, OUT_OF_CONTROL)
    plant.press_estop(False)
    assert not plant.state.estop and plant.step().arm_states == OUT_OF_CONTROL
    plant.set_control_mode(Mode.SERVO)
    assert plant.step().arm_states == IN_CONTROL


def test_what_was_commanded_before_a_stop_is_dropped():
    plant = make(delay_s=0.05)
    plant.command_arms(READY + 0.2 * FIRST)
    plant.stop_motion()
    plant.set_control_mode(Mode.SERVO)
    assert (until_still(plant) == READY).all()


# Faults, limits and contacts


def test_frozen_states_keep_their_values_while_stamps_and_arms_go_on():
    plant = make(noise_rad=0.001)
    follow(plant, wave(20))
    plant.command_grippers([120.0, 120.0])
    before = plant.state
    plant.freeze()
    follow(plant, wave(60)[20:])
    after = plant.state
    assert after.stamp_s == pytest.approx(before.stamp_s + 40 * DT)
    np.testing.assert_array_equal(after.positions, before.positions)
    np.testing.assert_array_equal(after.grippers_mm, before.grippers_mm)
    plant.freeze(False)
    now = plant.step()
    assert np.abs(now.positions - wave(60)[-1]).max() < 0.01 and (now.grippers_mm > 40).all()


def test_an_error_is_shown_by_its_arm_until_it_is_cleared():
    plant = make()
    plant.fail("left", 0x1007)
    assert plant.step().arm_states == (0x1007, 0x0)
    plant.set_control_mode(Mode.SERVO)
    assert plant.step().arm_states == IN_CONTROL


@pytest.mark.parametrize(
    "pair, states",
    [
        (("arm_left_link5", "arm_right_link5"), (0x1012, 0x1012)),
        (("arm_base_link", "arm_right_link4"), (0x0, 0x1012)),
        (("gripper_l_finger1", "cup"), (0x100D, 0x0)),
        (("chair", "cup"), (0x100D, 0x100D)),
    ],
)
def test_a_pair_that_begins_to_touch_is_shown_and_latches_its_arms(pair, states):
    plant = make()
    plant.collide([pair])
    state = plant.step()
    assert (state.collision_pairs, state.arm_states) == ((pair,), states)
    plant.set_control_mode(Mode.SERVO)
    state = plant.step()
    assert (state.collision_pairs, state.arm_states) == ((pair,), IN_CONTROL)  # so that one can move out of it
    plant.collide([])
    assert plant.step().collision_pairs == ()
    plant.collide([pair])
    assert plant.step().arm_states == states


def test_an_arm_that_reaches_the_table_collides_with_it():
    plant = make()
    follow(plant, ramp(0.8, joint=0, steps=300))
    assert plant.state.arm_states == (ArmState.COLLISION, ArmState.IDLE)
    assert {second for _, second in plant.state.collision_pairs} == {"table"}
    assert plant.state.positions[0] < READY[0] + 0.75


def test_grippers_that_meet_are_a_collision_of_both_arms_with_themselves():
    plant = make()
    follow(plant, ramp(0.6, joint=1, steps=300) + ramp(-0.6, joint=8, steps=300) - READY)
    assert plant.state.arm_states == (ArmState.SELF_COLLISION, ArmState.SELF_COLLISION)
    assert plant.state.collision_pairs[0] == ("gripper_l_finger1", "gripper_r_finger1")


def test_a_soft_limit_latches_before_the_end_of_the_range_and_can_be_left():
    plant = make()
    targets = ramp(plant.low[3] - READY[3] + 0.001, joint=3, steps=100)
    follow(plant, targets)
    assert plant.state.arm_states == (ArmState.SOFT_LIMIT, ArmState.IDLE)
    held = plant.state.positions
    assert plant.low[3] < held[3] < plant.low[3] + SOFT_LIMIT_RAD
    plant.set_control_mode(Mode.SERVO)
    assert follow(plant, ramp(0.1, joint=3, start=held))[-1, 3] == pytest.approx(held[3] + 0.1)
    assert plant.state.arm_states == IN_CONTROL


# Grippers


def test_grippers_close_by_millimetres_at_their_speed_and_clip_what_is_beyond():
    plant = make()
    plant.command_grippers([30.0, 500.0])
    closed = np.array([plant.step().grippers_mm for _ in range(110)])
    np.testing.assert_allclose(closed[:, 0], np.minimum(1.2 * np.arange(1, 111), 30.0), atol=1e-9)
    np.testing.assert_allclose(closed[:, 1], np.minimum(1.2 * np.arange(1, 111), 120.0), atol=1e-9)


def test_fingers_are_apart_by_what_a_gripper_is_open():
    plant = make()
    plant.command_grippers([0.0, 90.0])
    for _ in range(110):
        plant.step()
    fingers = [[frame(plant, f"gripper_{side}_finger{i}")[:3, 3] for i in (1, 2)] for side in "lr"]
    opening = np.linalg.norm(np.diff(fingers, axis=1)[:, 0], axis=1) - 2 * FINGER_M[1]
    np.testing.assert_allclose(opening, [0.12, 0.03], atol=1e-9)


def test_a_gripper_command_that_is_no_number_is_ignored():
    plant = make()
    plant.command_grippers([12.0, 12.0])
    plant.command_grippers([np.nan, -3.0])
    for _ in range(20):
        plant.step()
    np.testing.assert_allclose(plant.state.grippers_mm, [12.0, 0.0])


def test_grippers_stop_with_the_arms():
    plant = make()
    plant.command_grippers([120.0, 120.0])
    plant.step()
    plant.stop_motion()
    plant.command_grippers([0.0, 0.0])
    for _ in range(10):
        plant.step()
    np.testing.assert_allclose(plant.state.grippers_mm, [1.2, 1.2])


# Where the links are, and what is refused at construction


def frame(plant, link: str) -> np.ndarray:
    """The frame of a link in that of the base, (4, 4)."""
    frame, body = np.eye(4), plant._scene._data.body(link)
    frame[:3, :3], frame[:3, 3] = body.xmat.reshape(3, 3), body.xpos
    return frame


def test_the_links_are_where_the_kinematics_say():
    plant = make()
    follow(plant, wave(70))
    for arm, q in zip(load_arms(), np.split(plant.state.positions, 2), strict=True):
        frames = frame(plant, BASE) @ arm.frames(q[None])[0]
        np.testing.assert_allclose([frame(plant, link) for link in arm.links], frames, rtol=0, atol=1e-9)


def test_a_state_is_not_changed_by_what_comes_after_it():
    plant = make()
    before = plant.state
    follow(plant, wave(50))
    np.testing.assert_array_equal(before.positions, READY)
    before.positions[:] = 9.0
    assert (plant.state.positions != 9.0).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dt_s": 0.0}, "dt_s is 0.0"),
        ({"delay_s": 0.015}, "delay_s is 0.015; it must be a multiple of dt_s, 0.01"),
        ({"delay_s": -0.01}, "delay_s is -0.01"),
        ({"delay_s": np.inf}, "delay_s is inf"),
        ({"noise_rad": -1.0}, "noise_rad is -1.0"),
        ({"start": [0.0] * 7}, r"start has shape \(7,\); \(14,\)"),
        ({"start": [9.0] * 14}, "start is .* outside the joints' ranges"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_commands_have_one_number_for_each_joint_and_gripper():
    plant = make()
    with pytest.raises(ValueError, match=r"arm command has shape \(7,\); \(14,\) was expected"):
        plant.command_arms(READY[:7])
    with pytest.raises(ValueError, match=r"gripper command has shape \(1,\); \(2,\) was expected"):
        plant.command_grippers([0.0])
    with pytest.raises(ValueError, match="arm 'middle' is unknown; choose left or right"):
        plant.fail("middle", 0x1007)


# What it sees


@pytest.fixture
def seeing():
    """Builds plants that are looked through, and closes them."""
    plants = []

    def build(**settings) -> G1Plant:
        plants.append(make(**settings))
        return plants[-1]

    yield build
    for plant in plants:
        plant.close()


def changes(plant, before: dict) -> dict[str, float]:
    """Camera name to the mean change of a pixel's colour."""
    return {name: float(np.abs(image.astype(float) - before[name]).mean()) for name, image in plant.images().items()}


@pytest.mark.simulator
@pytest.mark.parametrize("size", [(96, 128), (720, 1280)])
def test_three_cameras_show_the_scene_at_the_size_that_was_asked_for(seeing, size):
    images = seeing(image_size=size).images()
    assert tuple(images) == ("head", "hand_left", "hand_right") == tuple(CAMERAS)
    for image in images.values():
        assert image.shape == (*size, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        assert image.std() > 20


@pytest.mark.simulator
def test_the_head_sees_the_block_in_its_middle_third(seeing):
    image = seeing().images()["head"].astype(int)
    red = np.argwhere((image[..., 0] > 120) & (image[..., 1] < 60) & (image[..., 2] < 60))
    middle = red.mean(axis=0) / image.shape[:2]
    assert len(red) > 20 and (middle > 1 / 3).all() and (middle < 2 / 3).all()


@pytest.mark.simulator
def test_cameras_see_the_arm_that_moves(seeing):
    plant = seeing()
    before = plant.images()
    follow(plant, ramp(-0.3, joint=0))
    changed = changes(plant, before)
    assert changed["hand_left"] > 5 and changed["head"] > 0.5
    follow(plant, ramp(-0.3, joint=0)[::-1])
    assert max(changes(plant, before).values()) < 0.1


@pytest.mark.simulator
def test_a_hand_s_camera_sees_its_gripper_close(seeing):
    plant = seeing()
    before = plant.images()
    plant.command_grippers([120.0, 0.0])
    for _ in range(110):
        plant.step()
    changed = changes(plant, before)
    assert changed["hand_left"] > 3 and changed["hand_left"] > 5 * changed["hand_right"]


@pytest.mark.simulator
def test_the_same_moment_gives_the_same_images_bit_for_bit(seeing):
    plants = [seeing(), seeing()]
    for plant in plants:
        follow(plant, wave(30))
    for name, image in plants[0].images().items():
        np.testing.assert_array_equal(image, plants[1].images()[name])
        np.testing.assert_array_equal(image, plants[0].images()[name])
