# SPDX-License-Identifier: MIT
"""Who may say what: the shipped policy, read by this file alone, and what makes it and keys of it."""

from __future__ import annotations

import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy", reason="rclpy is not importable: no ROS 2 here")

from harness import own_domain

from efn_ros.commands._sros2 import make_keys, policy_file
from efn_ros.runtime.graph import Graph, enclave

POLICY, BRIDGE, OPERATOR, ROBOT = policy_file("agibot_g1"), "/efn/agibot_g1_bridge", "/efn/operator", "/efn/robot"
COMMANDS = {"/wbc/arm_command", "/wbc/left_ee_command", "/wbc/right_ee_command", "/wbc/motion_stop"}
CHILDREN = {
    "policy": {"enclaves"},
    "enclaves": {"enclave"},
    "enclave": {"profiles"},
    "profiles": {"profile"},
    "profile": {"topics", "services"},
    "topics": {"topic"},
    "services": {"service"},
    "topic": set(),
    "service": set(),
}
QUALIFIERS = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}}


def rights(what: str) -> dict[str, set[str]]:
    """Enclave to the names that it may publish, subscribe, reply or request."""
    return {
        found.get("path"): {name.text for group in found.findall(f".//*[@{what}='ALLOW']") for name in group}
        for found in ElementTree.parse(POLICY).iter("enclave")
    }


def allowed(names: set[str], name: str) -> bool:
    return any(fnmatch(name, expression) for expression in names)


# The shipped policy


def test_only_the_bridge_may_publish_commands():
    remapped = dict(next(n for n in Graph.load("agibot_g1").nodes if n.name == "agibot_g1_bridge").remappings)
    assert {topic for name, topic in remapped.items() if name.endswith(("_command", "_stop"))} == COMMANDS
    for command in COMMANDS:
        assert {path for path, names in rights("publish").items() if allowed(names, command)} == {BRIDGE}


def test_no_right_to_publish_is_a_pattern():
    assert not [name for names in rights("publish").values() for name in names if set(name) & set("*?[")]


def test_only_the_corrector_may_tell_the_bridge_what_to_do():
    published = rights("publish")
    assert {path for path, names in published.items() if "/efn/corrected_action" in names} == {"/efn/efn_corrector"}


def test_every_node_has_an_enclave_of_its_own_and_beside_them_there_are_operator_and_robot():
    graph = Graph.load("agibot_g1", learn=True)
    nodes = {enclave("efn", node.name) for node in graph.nodes}
    assert rights("publish").keys() == nodes | {OPERATOR, ROBOT}


def test_an_operator_calls_what_stops_and_starts_and_publishes_nothing_of_the_graph():
    assert rights("publish")[OPERATOR] == {"/rosout", "/parameter_events"}
    called = rights("request")[OPERATOR]
    for name in ("stop", "reset", "hand_over", "take_back", "change_state"):
        assert f"{BRIDGE}/{name}" in called
    assert {"/efn/start_episode", "/efn/end_episode", "/efn/abort", "/efn/efn_corrector/stop"} <= called
    assert {"/diagnostics", "/efn/bridge_state"} <= rights("subscribe")[OPERATOR]


def test_the_robots_end_publishes_measurements_and_subscribes_to_commands():
    published = rights("publish")[ROBOT]
    assert {"/hal/arm_joint_state", "/hal/whole_body_status", "/wbc/motion_control_status"} <= published
    assert COMMANDS <= rights("subscribe")[ROBOT]
    assert not rights("request")[ROBOT]


def test_every_node_may_do_what_a_lifecycle_node_does():
    for path, replies in rights("reply").items():
        if path in (OPERATOR, ROBOT):
            continue
        for name in ("change_state", "get_state", "get_available_states", "get_parameters", "get_transition_graph"):
            assert f"{path}/{name}" in replies
        for topic in ("/rosout", "/parameter_events", "/diagnostics", f"{path}/transition_event"):
            assert topic in rights("publish")[path]
        assert "/clock" in rights("subscribe")[path]


def test_it_has_the_form_of_a_policy_of_sros2():
    root = ElementTree.parse(POLICY).getroot()
    assert root.tag == "policy" and root.attrib == {"version": "0.2.0"}
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN[element.tag]
        assert len(element) or not CHILDREN[element.tag], f"<{element.tag}> is empty"
        if element.tag in QUALIFIERS:
            ((qualifier, value),) = element.attrib.items()
            assert qualifier in QUALIFIERS[element.tag] and value == "ALLOW"
    for found in root.iter("enclave"):
        (profile,) = found.iter("profile")
        assert f"{profile.get('ns')}/{profile.get('node')}" == found.get("path")


@pytest.mark.integration
def test_it_is_what_the_nodes_make():
    with own_domain() as domain:
        done = subprocess.run(
            [sys.executable, "-m", "efn_ros.commands.main", "security", "policy", "agibot_g1", "--check"],
            env={**os.environ, "ROS_DOMAIN_ID": str(domain)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# Keys


def test_without_sros2_it_is_named_with_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sros2.keystore", None)
    with pytest.raises(RuntimeError, match="sros2 is not installed.*apt-get install ros-.*-sros2"):
        make_keys(POLICY, tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


def test_a_file_that_is_no_policy_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.xml"):
        make_keys(tmp_path / "nowhere.xml", tmp_path / "keys")
    (tmp_path / "bad.xml").write_text("<policy>")
    with pytest.raises(ValueError, match="bad.xml is no policy"):
        make_keys(tmp_path / "bad.xml", tmp_path / "keys")


def test_every_enclave_gets_keys_of_one_domain_for_this_user_alone(tmp_path, monkeypatch):
    pytest.importorskip("sros2.keystore", reason="sros2 is not installed")
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    names = make_keys(POLICY, tmp_path)
    assert set(names) == rights("publish").keys() and names == make_keys(POLICY, tmp_path), "it is gone on with"
    for name in names:
        directory = tmp_path / "enclaves" / name.strip("/")
        assert f"CN={name}<" in (directory / "permissions.xml").read_text()
        assert (directory / "key.pem").stat().st_mode & 0o077 == 0
        assert ("<topic>rt/wbc/arm_command</topic>" in published(directory / "permissions.xml")) == (name == BRIDGE)
    monkeypatch.setenv("ROS_DOMAIN_ID", "8")
    with pytest.raises(ValueError, match="of domain 7, ROS_DOMAIN_ID is 8"):
        make_keys(POLICY, tmp_path)


def published(permissions: Path) -> str:
    root = ElementTree.parse(permissions)
    return "".join(ElementTree.tostring(found, encoding="unicode") for found in root.iter("publish"))
