# SPDX-License-Identifier: MIT
"""Which addresses a node listens at, as Linux tells it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from harness import READY_S, load_graph

from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client

pytestmark = pytest.mark.integration

NODE = "episode_manager"
LISTENS = {"07", "0A"}  # states of a socket in /proc: UDP that is bound, TCP that listens


def addresses(pid: int) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Local addresses of the sockets of a process that others can send to."""
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists() or fd.is_symlink()]
    inodes = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    found = set()
    for protocol in ("udp", "udp6", "tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if inode in inodes and state in LISTENS:
                words = bytes.fromhex(local.partition(":")[0])  # 32 bits at a time, as this machine orders bytes
                found.add(ipaddress.ip_address(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))))
    return found


@pytest.fixture
def listening(run_mark, tmp_path, monkeypatch):
    """listening(NAME=value...): where a node listens that has these variables and no ROS_AUTOMATIC_DISCOVERY_RANGE."""

    def listening(**environment: str):
        graph = load_graph(tmp_path, only=[NODE])
        with Client() as client:
            monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE")
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            with Bringup(graph, output=tmp_path / "log") as bringup:
                client.wait_ready([NODE], READY_S, watch=bringup.watch)
                return addresses(bringup.process(NODE).pid)

    return listening


def test_nothing_of_a_node_listens_beyond_this_machine_by_default_and_it_is_heard_on_it(listening):
    found = listening()
    assert found and all(address.is_loopback for address in found), found


def test_a_node_listens_to_other_machines_where_they_are_named(listening):
    assert not all(address.is_loopback for address in listening(ROS_STATIC_PEERS="127.0.0.1"))
