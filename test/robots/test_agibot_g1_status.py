# SPDX-License-Identifier: MIT
"""Status messages of an AgiBot G1, as documented, become lists of faults."""

from types import SimpleNamespace

import pytest

from efn_ros.robots.agibot_g1_status import (
    PARTS,
    StatusMonitor,
    arm_fault,
    motion_control_faults,
    robot_status_faults,
    whole_body_faults,
)

HEALTHY = dict.fromkeys([f"{part}_error" for part in PARTS], 0)
HEALTHY |= {"left_arm_control": True, "right_arm_control": True, "left_arm_estop": False, "right_arm_estop": False}
NO_STATUS = "no message of status was received"
NO_ERROR = SimpleNamespace(has_error=False, error_code=0)


def body(**change):
    return SimpleNamespace(**HEALTHY | change)


def control(mode=1, error=NO_ERROR, one=(), other=()):
    return SimpleNamespace(mode=mode, error=error, collision_pairs_1=list(one), collision_pairs_2=list(other))


def test_a_healthy_robot_has_no_fault():
    assert whole_body_faults(body()) == motion_control_faults(control()) == []
    assert robot_status_faults(SimpleNamespace(mode=1, estop=False, errors=[], collisions=[])) == []


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"left_arm_error": 0x1002}, "left arm: error 0x1002"),
        ({"chassis_error": 3}, "chassis: error 0x3"),
        ({"right_arm_estop": True}, "right arm: the e-stop is pressed"),
        ({"left_arm_control": False}, "left arm: not in control"),
    ],
)
def test_each_part_of_the_body_is_checked(change, fault):
    assert whole_body_faults(body(**change)) == [fault]


def test_mode_errors_and_collisions_of_motion_control_are_faults():
    assert motion_control_faults(control(mode=2)) == ["mode of motion control is 2, not 1"]
    broken = SimpleNamespace(has_error=True, code=7)
    assert motion_control_faults(control(error=broken)) == [f"motion control: {broken}"]
    assert motion_control_faults(control(one=["arm", "hand"], other=["table", "head"])) == [
        "collision: arm and table",
        "collision: hand and head",
    ]
    assert motion_control_faults(control(one=["arm"])) == ["collision: arm and an unknown part"]
    status = SimpleNamespace(mode=0, estop=True, errors=["it smokes"], collisions=["a and b"])
    assert robot_status_faults(status) == [
        "mode of motion control is 0, not 1",
        "the e-stop is pressed",
        "it smokes",
        "collision: a and b",
    ]


@pytest.mark.parametrize(
    "code, text", [(0x1, ""), (0x100D, "left arm: 0x100d, collision"), (0x0, "left arm: 0x0, not in control")]
)
def test_codes_of_an_arm_are_described(code, text):
    assert arm_fault("left", code) == text


def test_a_source_that_falls_silent_is_a_fault_and_one_without_a_message_is_noted():
    monitor = StatusMonitor(("status", "whole_body_status"), 0.5)
    assert monitor.health(0.0).notes == (NO_STATUS, "no message of whole_body_status was received")
    monitor.update("status", [], 1.0)
    health = monitor.health(1.4)
    assert health.faults == () and health.notes == ("no message of whole_body_status was received",)
    assert monitor.health(2.0).faults == ("status has been silent for 1.0 s",)
    monitor.update("status", ["broken"], 2.0)
    assert monitor.health(2.0).faults == ("broken",)


def test_a_message_of_another_version_is_an_error():
    with pytest.raises(AttributeError, match="chassis_error"):
        whole_body_faults(
            SimpleNamespace(**{name: value for name, value in HEALTHY.items() if name != "chassis_error"})
        )
    with pytest.raises(AttributeError):
        motion_control_faults(SimpleNamespace(mode=1))


def test_a_required_source_without_a_message_is_a_fault():
    health = StatusMonitor(("status", "other"), 0.5, required=("status",)).health(0.0)
    assert (health.faults, health.notes) == ((NO_STATUS,), ("no message of other was received",))
