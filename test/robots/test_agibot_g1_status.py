"""What an AgiBot G1 says of itself becomes faults in words, of messages as they are documented."""

from types import SimpleNamespace

import pytest

from efn_ros.robots.agibot_g1_status import PARTS, Reports, arm_state, motion_control, robot_status, whole_body

WELL = dict.fromkeys([f"{part}_error" for part in PARTS], 0)
WELL |= {"left_arm_control": True, "right_arm_control": True, "left_arm_estop": False, "right_arm_estop": False}
NO_ERROR = SimpleNamespace(has_error=False, error_code=0)


def body(**change):
    return SimpleNamespace(**WELL | change)


def control(mode=1, error=NO_ERROR, one=(), other=()):
    return SimpleNamespace(mode=mode, error=error, collision_pairs_1=list(one), collision_pairs_2=list(other))


def test_a_robot_that_is_well_has_no_fault():
    assert whole_body(body()) == motion_control(control()) == []
    assert robot_status(SimpleNamespace(mode=1, estop=False, errors=[], collisions=[])) == []


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"left_arm_error": 0x1002}, "left arm: error 0x1002"),
        ({"chassis_error": 3}, "chassis: error 0x3"),
        ({"right_arm_estop": True}, "right arm: the e-stop is pressed"),
        ({"left_arm_control": False}, "left arm: not in control"),
    ],
)
def test_each_part_of_the_body_is_heard(change, fault):
    assert whole_body(body(**change)) == [fault]


def test_mode_errors_and_collisions_of_motion_control_are_heard():
    assert motion_control(control(mode=2)) == ["mode of motion control is 2, not 1"]
    broken = SimpleNamespace(has_error=True, code=7)
    assert motion_control(control(error=broken)) == [f"motion control: {broken}"]
    assert motion_control(control(one=["arm", "hand"], other=["table", "head"])) == [
        "collision: arm and table",
        "collision: hand and head",
    ]
    assert motion_control(control(one=["arm"])) == ["collision: arm and something"]
    said = SimpleNamespace(mode=0, estop=True, errors=["it smokes"], collisions=["a and b"])
    assert robot_status(said) == [
        "mode of motion control is 0, not 1",
        "the e-stop is pressed",
        "it smokes",
        "collision: a and b",
    ]


@pytest.mark.parametrize(
    "code, words", [(0x1, ""), (0x100D, "left arm: 0x100d, collision"), (0x0, "left arm: 0x0, not in control")]
)
def test_codes_of_an_arm_are_put_into_words(code, words):
    assert arm_state("left", code) == words


def test_a_source_that_falls_silent_is_a_fault_and_one_that_never_spoke_is_noted():
    reports = Reports(("status", "whole_body_status"), 0.5)
    assert reports.health(0.0).notes == ("status has not spoken", "whole_body_status has not spoken")
    reports.hear("status", [], 1.0)
    health = reports.health(1.4)
    assert health.faults == () and health.notes == ("whole_body_status has not spoken",)
    assert reports.health(2.0).faults == ("status has been silent for 1.0 s",)
    reports.hear("status", ["broken"], 2.0)
    assert reports.health(2.0).faults == ("broken",)


def test_a_message_of_another_version_is_no_sign_of_health():
    with pytest.raises(AttributeError, match="chassis_error"):
        whole_body(SimpleNamespace(**{name: value for name, value in WELL.items() if name != "chassis_error"}))
    with pytest.raises(AttributeError):
        motion_control(SimpleNamespace(mode=1))


def test_a_source_that_must_speak_and_never_did_is_a_fault():
    health = Reports(("status", "other"), 0.5, required=("status",)).health(0.0)
    assert (health.faults, health.notes) == (("status has not spoken",), ("other has not spoken",))
