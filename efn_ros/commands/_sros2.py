"""Who may say what in a graph: an SROS2 policy out of what its nodes really make, and keys for it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import rclpy
import yaml
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from efn_ros.commands import _reference as reference
from efn_ros.resources import config_directory
from efn_ros.ros import discovery
from efn_ros.runtime.graph import Graph, NodeSpec, enclave

VERSION = "0.2.0"  # of SROS2's policies
MADE = " Made by `./efn security policy`; edit what it is made from instead. "
OPERATOR, ROBOT = "operator", "robot"
PLUMBING = {"/rosout", "/parameter_events"}
# Names of the nodes by which an operator looks and calls: those of ros2, of ./efn topics and of efn_ros.ros.client.
TOOLS = ("/_ros2cli*", "/_efn_topics", "/{namespace}/efn_client")
DOMAIN = "ROS_DOMAIN_ID"
KINDS = (("topic", "publish"), ("topic", "subscribe"), ("service", "reply"), ("service", "request"))
# For a graph that is only looked at: it does not become active, nor first on this machine.
AT_REST = {"autostart": False, "realtime.priority": 0, "realtime.lock_memory": False}
APART = {discovery.RANGE: "OFF", "ROS_SECURITY_ENABLE": "false"}


@dataclass
class Rights:
    """Full names of the topics that a process may publish and subscribe, of the services that it may give and call."""

    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)
    reply: set[str] = field(default_factory=set)
    request: set[str] = field(default_factory=set)


def policy_file(robot: str) -> Path:
    """The policy that comes with the package."""
    return config_directory() / "security" / f"{robot}.policy.xml"


def policy(robot: str, overlays: Iterable[str | Path] = (), namespace: str = "efn") -> str:
    """The policy of a robot's graph with all of its optional nodes.

    Every node is configured once, in this process and heard by nobody. RuntimeError names the one that refuses.
    """
    namespace = namespace.strip("/")
    rights = {}
    with tempfile.TemporaryDirectory(prefix="efn_") as directory, _environment(APART):
        flags = dict.fromkeys(Graph.load(robot, overlays).optional, True)
        graph = Graph.load(robot, overlays, bank=f"{directory}/bank", **AT_REST, **flags)
        for node in graph.nodes:
            rights[node.executable] = _rights(node, namespace, Path(directory))
    rights |= {ROBOT: _robot(rights, namespace), OPERATOR: _operator(rights, namespace)}
    return _document(rights, namespace)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _rights(spec: NodeSpec, namespace: str, directory: Path) -> Rights:
    """What a node makes until it is configured, as ROS 2's graph tells it, and what it may listen to beside that."""
    file = directory / f"{spec.executable}.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": spec.parameters}}))
    arguments = ["--ros-args", "-r", f"__ns:=/{namespace}", "--params-file", str(file), "--log-level", "warn"]
    for source, target in spec.remappings:
        arguments += ["-r", f"{source}:={target}"]
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = dict(reference.nodes())[spec.executable](spec.executable)
        if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
            raise RuntimeError(f"{spec.executable} could not be configured; the reason stands above")

        def made(what: str) -> set[str]:
            found = getattr(node, f"get_{what}_names_and_types_by_node")(spec.executable, node.get_namespace())
            return {name for name, _ in found}

        hears = {"/clock", *made("subscriber"), *map(node.resolve_topic_name, node.MAY_HEAR)}
        rights = Rights(made("publisher"), hears, made("service"), made("client"))
        node._release()
        node.destroy_node()
        return rights
    finally:
        rclpy.try_shutdown()


def _robot(nodes: dict[str, Rights], namespace: str) -> Rights:
    """The robot's end: it says what the graph only hears, and hears what the graph says outside of its namespace."""
    said, heard = (set().union(*(getattr(node, what) for node in nodes.values())) for what in ("publish", "subscribe"))
    common = set.intersection(*(node.publish for node in nodes.values()))
    outside = {topic for topic in said - common if not topic.startswith(f"/{namespace}/")}
    own = f"/{namespace}/{ROBOT}"
    return Rights(heard - said - {"/clock"} | PLUMBING, outside | {"/clock"}, {f"{own}/*"})


def _operator(nodes: dict[str, Rights], namespace: str) -> Rights:
    """Who looks and calls: it hears everything, calls every service, and publishes nothing of its own."""
    topics = set().union(*(node.publish | node.subscribe for node in nodes.values()))
    services = set().union(*(node.reply for node in nodes.values()))
    tools = {f"{tool.format(namespace=namespace)}/*" for tool in TOOLS}
    return Rights(set(PLUMBING), topics, tools, services)


def _document(rights: dict[str, Rights], namespace: str) -> str:
    root = ElementTree.Element("policy", version=VERSION)
    root.append(ElementTree.Comment(MADE))
    enclaves = ElementTree.SubElement(root, "enclaves")
    for name, may in rights.items():
        profiles = ElementTree.SubElement(
            ElementTree.SubElement(enclaves, "enclave", path=enclave(namespace, name)), "profiles"
        )
        profile = ElementTree.SubElement(profiles, "profile", ns=f"/{namespace}", node=name)
        for kind, what in KINDS:
            if names := getattr(may, what):
                listed = ElementTree.SubElement(profile, f"{kind}s", {what: "ALLOW"})
                for full in sorted(names):
                    ElementTree.SubElement(listed, kind).text = full
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def make_keys(policy: Path, keystore: Path) -> list[str]:
    """Keys and signed permissions of every enclave of a policy, which are returned; of ROS_DOMAIN_ID, and readable to
    this user alone. A keystore that is there is gone on with.

    Raises RuntimeError where sros2 is not installed, FileNotFoundError without the policy, ValueError for a keystore
    of another domain.
    """
    if not policy.is_file():
        raise FileNotFoundError(f"there is no policy {policy}; ./efn security policy makes one")
    try:
        names = [found.attrib["path"] for found in ElementTree.parse(policy).iter("enclave")]
    except (ElementTree.ParseError, KeyError) as error:
        raise ValueError(f"{policy} is no policy of SROS2: {error}") from error
    try:
        from sros2.keystore import create_enclave, create_keystore, create_permission, is_valid_keystore
    except ImportError as error:
        distribution = os.environ.get("ROS_DISTRO", "<distribution>")
        raise RuntimeError(
            f"sros2 is not installed ({error}): source a ROS 2 and sudo apt-get install ros-{distribution}-sros2; "
            "there is no wheel of it"
        ) from error
    mask = os.umask(0o077)
    try:
        if not is_valid_keystore(keystore):
            create_keystore(keystore)
        domain = os.environ.get(DOMAIN, "0")
        held = ElementTree.parse(keystore / "enclaves" / "governance.xml").findtext(".//domains/id")
        if held != domain:
            raise ValueError(f"{keystore} is of domain {held}, {DOMAIN} is {domain}: name another directory")
        for name in names:
            create_enclave(keystore, name)
            create_permission(keystore, name, policy)
    finally:
        os.umask(mask)
    return names
