# SPDX-License-Identifier: MIT
"""Checks of a running graph: nodes that are missing or inactive, topics and cameras without a publisher or silent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from sensor_msgs.msg import CompressedImage, Image, JointState

from efn_ros.commands._checks.finding import Finding, fail, ok, warn
from efn_ros.commands._reference import executables, node_class
from efn_ros.msg import EpisodeState
from efn_ros.ros.client import Client
from efn_ros.ros.qos import SENSOR_DATA
from efn_ros.runtime.graph import Graph

SENSORS = {f"sensor_msgs/msg/{kind.__name__}": kind for kind in (CompressedImage, Image, JointState)}
EVERY_NODE = ("/parameter_events", "/rosout", "/diagnostics", "/clock")
OWN = ("efn_client", "_efn_topics")  # of this package's tools, no part of a graph


def check_graph(namespace: str, graph: str, seconds: float) -> Iterator[Finding]:
    """Check the graph that runs in a namespace, if any.

    Args:
        namespace: Of the graph.
        graph: Name or path of the graph that should run; empty: whatever runs there.
        seconds: How long to listen.
    """
    with Client(namespace) as client:
        prefix = "/" + namespace.strip("/")
        watched: dict[str, int] = {}  # sensor topic -> messages that have come
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for topic, kind in _subscribed(client, prefix).items():
                if kind in SENSORS and topic not in watched:
                    watched[topic] = 0
                    _count(client, topic, SENSORS[kind], watched)
            client.spin_for(min(0.5, max(0.0, until - time.monotonic())))
        nodes = _nodes(client, prefix)
        if not nodes and not graph:
            yield ok("graph", f"none runs in {prefix}; with one, its nodes, topics and cameras are checked too")
            return
        yield from _check_nodes(client, nodes, Graph.load(graph).names if graph else [])
        yield from _check_topics(client, prefix, watched, seconds)


def _nodes(client: Client, prefix: str) -> list[str]:
    return sorted(n for n, space in client.node.get_node_names_and_namespaces() if space == prefix and n not in OWN)


def _subscribed(client: Client, prefix: str) -> dict[str, str]:
    """Return the topics that the graph's nodes subscribe to, and the type of each."""
    found = {}
    for name in _nodes(client, prefix):
        for topic, types in client.node.get_subscriber_names_and_types_by_node(name, prefix):
            if topic not in EVERY_NODE:
                found[topic] = types[0]
    return found


def _count(client: Client, topic: str, kind: type, counts: dict[str, int]) -> None:
    """Count the messages of a sensor's topic from now on."""

    def received(data: bytes) -> None:
        counts[topic] += 1

    client.node.create_subscription(kind, topic, received, SENSOR_DATA, raw=True)


def _check_nodes(client: Client, nodes: list[str], expected: Iterable[str]) -> Iterator[Finding]:
    for name in sorted(set(expected) - set(nodes)):
        yield fail(
            "nodes", f"{name} does not run", f"look for its last words: ./efn bringup prints them, or log/{name}.log"
        )
    inactive = [
        f"{name} ({client.lifecycle.get(name) or 'silent'})" for name in nodes if client.lifecycle.get(name) != "active"
    ]
    if inactive:
        remedy = "look at /diagnostics, or: ros2 lifecycle set /<namespace>/<node> activate"
        yield warn("nodes", f"not active: {', '.join(inactive)}", remedy)
    elif nodes:
        yield ok("nodes", f"{len(nodes)} active: {', '.join(nodes)}")


def _check_topics(client: Client, prefix: str, watched: dict[str, int], seconds: float) -> Iterator[Finding]:
    optional = {f"{prefix}/{topic}" for name in executables() for topic in node_class(name).OPTIONAL_TOPICS}
    subscribed = _subscribed(client, prefix)
    missing = [t for t in sorted(subscribed) if t not in optional and not client.node.count_publishers(t)]
    for topic in missing:
        what = "camera" if "Image" in subscribed[topic] else "topic"
        remedy = "start what publishes it, or remap: remappings in the graph's document"
        yield fail(f"{what}s", f"{topic} ({subscribed[topic]}) has no publisher", remedy)
    for topic, count in sorted(watched.items()):
        if topic in missing:
            continue
        publishers = {p.node_name for p in client.node.get_publishers_info_by_topic(topic)}
        if count:
            yield ok("sensors", f"{topic}: {count / seconds:.0f} messages a second")
        elif client.episode.phase != EpisodeState.RUNNING and publishers <= set(_nodes(client, prefix)):
            yield ok("sensors", f"{topic}: {', '.join(sorted(publishers))} sends during an episode, and none runs")
        else:
            remedy = f"look at its publisher, {', '.join(sorted(publishers))}"
            yield warn("sensors", f"{topic} is published, but nothing came within {seconds:g} s", remedy)
    if not missing:
        yield ok("topics", f"all {len(subscribed)} that the graph subscribes to have a publisher")
