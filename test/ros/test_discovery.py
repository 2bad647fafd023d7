# SPDX-License-Identifier: MIT
"""Discovery range of the nodes: as the environment sets it, by default this machine alone."""

import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: no ROS 2 here")

from efn_ros.ros.discovery import DEPRECATED, LOOPBACK, NETWORK, PROFILES_FILE, RANGE, configure


def configured(**environment):
    """Return range and profile of a process with this environment."""
    configure(environment)
    return environment.get(RANGE), {environment.get(name) for name in PROFILES_FILE}


def test_by_default_a_profile_limits_sockets_to_the_loopback_interface():
    assert configured() == configured(**{RANGE: "LOCALHOST"}) == ("SYSTEM_DEFAULT", {LOOPBACK})


def test_a_range_that_is_set_stays_and_sockets_are_open():
    for chosen in ("SUBNET", "OFF", "SYSTEM_DEFAULT"):
        assert configured(**{RANGE: chosen}) == (chosen, {NETWORK})


@pytest.mark.parametrize("name", ["ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER"])
def test_with_peers_sockets_are_open(name):
    assert configured(**{name: "10.42.0.101"}) == ("LOCALHOST", {NETWORK})
    assert configured(**{name: ""}) == ("SYSTEM_DEFAULT", {LOOPBACK})


def test_a_profile_that_is_set_stays():
    environment = {PROFILES_FILE[1]: "/own.xml"}
    configure(environment)
    assert environment == {PROFILES_FILE[1]: "/own.xml", RANGE: "LOCALHOST"}


def test_the_deprecated_variable_limits_sockets_too():
    environment = {DEPRECATED: "1", RANGE: "SUBNET"}
    assert configured(**environment) == ("SYSTEM_DEFAULT", {LOOPBACK})
    configure(environment)
    assert DEPRECATED not in environment


def test_configuring_twice_changes_nothing():
    environment = {}
    configure(environment)
    before = dict(environment)
    configure(environment)
    assert environment == before
