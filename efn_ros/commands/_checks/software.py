# SPDX-License-Identifier: MIT
"""Checks of Python, ROS 2, the middleware and the installed packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement

from efn_ros.commands._checks.finding import Finding, fail, ok, warn

PYTHON = (3, 10), (3, 13)  # oldest and newest minor version
DISTROS = ("humble", "jazzy", "kilted", "lyrical", "rolling")
MIDDLEWARE = "rmw_fastrtps_cpp"  # the one that the tests run on
DOMAINS = 101  # above this number a domain's ports may be ephemeral ones
ROUND_TRIP_S = 10.0  # for discovery and one message
REQUIRED = {"opencv-python-headless": "<5", "mujoco": "<3.4"}  # versions with which something is known to break
REACH = {
    "LOCALHOST": "this machine alone",
    "SUBNET": "every machine of the subnet",
    "OFF": "no other process",
    "SYSTEM_DEFAULT": "whatever the middleware's profile says",
}


def check_python() -> Iterator[Finding]:
    """Check the version of Python."""
    version, (oldest, newest) = sys.version.split()[0], PYTHON
    text = f"{version}, {sys.executable}"
    if oldest <= sys.version_info[:2] <= newest:
        yield ok("Python", text)
    else:
        remedy = f"install one from {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]} and name it in EFN_PYTHON"
        yield fail("Python", text, remedy)


def check_ros(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check where ROS 2 comes from, and that the package's interfaces are built."""
    distro, underlay = environment.get("ROS_DISTRO", ""), environment.get("EFN_UNDERLAY", "")
    source = "wheels from PyPI" if underlay == "wheels" else f"underlay {underlay or 'of this shell'}"
    try:
        importlib.import_module("rclpy")
    except ImportError as error:
        yield fail("ROS 2", f"rclpy cannot be imported: {error}", "source a ROS 2, or run ./efn setup for the wheels")
        return
    if distro in DISTROS:
        yield ok("ROS 2", f"{distro}, {source}")
    else:
        remedy = f"source one of {', '.join(DISTROS)}"
        yield warn("ROS 2", f"ROS_DISTRO is {distro!r}, which no test has run on", remedy)
    try:
        importlib.import_module("efn_ros.msg")
        yield ok("interfaces", "efn_ros/msg, srv and action are built")
    except ImportError as error:
        remedy = "run ./efn setup, or build and source your workspace"
        yield fail("interfaces", f"they cannot be imported: {error}", remedy)


def check_discovery(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check who hears a graph that is started from this shell, and whether a message gets through at all."""
    from rclpy.utilities import get_rmw_implementation_identifier

    middleware = get_rmw_implementation_identifier()
    if middleware == MIDDLEWARE:
        yield ok("middleware", middleware)
    else:
        yield warn("middleware", f"{middleware}, which no test has run on", f"set RMW_IMPLEMENTATION={MIDDLEWARE}")
    domain = environment.get("ROS_DOMAIN_ID", "0")
    if not domain.isdigit() or int(domain) > DOMAINS:
        yield fail("domain", f"ROS_DOMAIN_ID is {domain!r}", f"set a number from 0 to {DOMAINS}")
        return
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    beyond = [name for name in ("ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER") if environment.get(name)]
    text = f"domain {domain}, range {reach}: heard by {REACH.get(reach, 'an unknown set of machines')}"
    if reach not in REACH:
        yield fail("discovery", text, f"set ROS_AUTOMATIC_DISCOVERY_RANGE to one of {', '.join(REACH)}")
    elif reach == "SUBNET" or beyond:
        text += f", and by those in {', '.join(beyond)}" if beyond else ""
        yield warn("discovery", text, "leave it so only where the robot's network is closed; else set LOCALHOST")
    else:
        yield ok("discovery", text)
    yield from _round_trip()


def _round_trip() -> Iterator[Finding]:
    """Send one message from one participant of the middleware to another."""
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.utilities import try_shutdown
    from std_msgs.msg import String

    topic, received = f"/efn_doctor_{os.getpid()}", []
    contexts = [Context(), Context()]
    for context in contexts:
        rclpy.init(context=context)
    nodes = [rclpy.create_node(n, context=c) for n, c in zip(("efn_doctor", "efn_patient"), contexts, strict=True)]
    executor = SingleThreadedExecutor(context=contexts[1])
    executor.add_node(nodes[1])
    publisher = nodes[0].create_publisher(String, topic, 1)
    nodes[1].create_subscription(String, topic, received.append, 1)
    began = time.monotonic()
    while not received and time.monotonic() - began < ROUND_TRIP_S:
        publisher.publish(String(data="hello"))
        executor.spin_once(timeout_sec=0.05)
    took_s = time.monotonic() - began
    executor.shutdown()
    for node, context in zip(nodes, contexts, strict=True):
        node.destroy_node()
        try_shutdown(context=context)
    if received:
        yield ok("messages", f"a message of another participant arrived after {took_s:.2f} s")
    else:
        remedy = "look for a firewall on the loopback interface, or a middleware profile that excludes it"
        yield fail("messages", f"no message arrived within {ROUND_TRIP_S:g} s", remedy)


def check_versions(requirements: Path | None = None) -> Iterator[Finding]:
    """Compare what is installed with the pins of requirements.txt.

    Args:
        requirements: The file; by default that of the checkout that `./efn` runs in.
    """
    path = requirements or Path(os.environ.get("EFN_ROOT", ".")) / "requirements.txt"
    for name, bound in REQUIRED.items():
        installed = _version(name)
        if installed and not Requirement(name + bound).specifier.contains(installed):
            yield fail("versions", f"{name} {installed} is known to break", f"pip install '{name}{bound}'")
    if not path.is_file():
        yield warn("versions", f"there is no {path} to compare with", "call it in a checkout, as ./efn doctor")
        return
    pins = [Requirement(line) for line in map(_without_comment, path.read_text().splitlines()) if "==" in line]
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    if os.environ.get("EFN_UNDERLAY", "wheels") != "wheels":  # then ROS 2's own are not installed from the index
        pins = [pin for pin in pins if not pin.name.startswith("ros-")]
    versions = {pin: _version(pin.name) for pin in pins}
    other = [f"{p.name} {v or 'missing'} ({p.specifier})" for p, v in versions.items() if not v or v not in p.specifier]
    if other:
        yield warn(
            "versions", f"{len(other)} of {len(pins)} are not those pinned: {', '.join(other)}", "run ./efn setup"
        )
    else:
        yield ok("versions", f"all {len(pins)} are those pinned in {path.name}")


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).strip()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
