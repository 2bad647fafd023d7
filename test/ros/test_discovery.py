"""How far nodes hear: what the environment says, and this machine alone where it says nothing."""

import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: no ROS 2 here")

from efn_ros.ros.discovery import DEPRECATED, LOOPBACK, NETWORK, PROFILES_FILE, RANGE, settle


def settled(**environment):
    """Range and profile that a process with this environment takes up."""
    settle(environment)
    return environment.get(RANGE), {environment.get(name) for name in PROFILES_FILE}


def test_where_nothing_is_said_a_profile_keeps_to_the_loopback_interface():
    assert settled() == settled(**{RANGE: "LOCALHOST"}) == ("SYSTEM_DEFAULT", {LOOPBACK})


def test_a_range_that_is_given_stays_and_sockets_are_open_as_it_wants_them():
    for reach in ("SUBNET", "OFF", "SYSTEM_DEFAULT"):
        assert settled(**{RANGE: reach}) == (reach, {NETWORK})


@pytest.mark.parametrize("name", ["ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER"])
def test_who_names_others_hears_them(name):
    assert settled(**{name: "10.42.0.101"}) == ("LOCALHOST", {NETWORK})
    assert settled(**{name: ""}) == ("SYSTEM_DEFAULT", {LOOPBACK})


def test_a_profile_that_is_named_stays():
    environment = {PROFILES_FILE[1]: "/own.xml"}
    settle(environment)
    assert environment == {PROFILES_FILE[1]: "/own.xml", RANGE: "LOCALHOST"}


def test_the_older_name_of_the_same_wish_does_not_open_the_sockets_again():
    environment = {DEPRECATED: "1", RANGE: "SUBNET"}
    assert settled(**environment) == ("SYSTEM_DEFAULT", {LOOPBACK})
    settle(environment)
    assert DEPRECATED not in environment


def test_a_process_that_is_started_by_a_settled_one_is_settled():
    environment = {}
    settle(environment)
    before = dict(environment)
    settle(environment)
    assert environment == before
