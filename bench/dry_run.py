# SPDX-License-Identifier: MIT
"""A dry run of the AgiBot G1 for benches: its processes, the states and commands of its bridge, and joint states."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from efn_ros.msg import BridgeState
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32
from std_srvs.srv import SetBool, Trigger

from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client
from efn_ros.ros.fields import from_field, from_time
from efn_ros.ros.qos import ALL_STEPS, LATCHED, SENSOR_DATA, STEPS
from efn_ros.runtime.graph import Graph, dry_run

ROBOT, GRAPH = "agibot_g1", dry_run("agibot_g1")
BRIDGE, DRIVER, TASK = "agibot_g1_bridge", "agibot_g1_driver", "sway"
FAULTS = ("estop", "freeze", "collide")  # that the driver simulates on request
READY_S, RECOVERY_S, ANSWER_S, ATTEMPTS = 120.0, 60.0, 5.0, 4


def shipped_timeouts() -> dict[str, float]:
    """Return the timeouts of the bridge of a real robot; those of a dry run are longer."""
    parameters = Graph.load(ROBOT).parameters(BRIDGE)
    return {name: value for name, value in parameters.items() if name.startswith("timeouts.")}


class DryRun:
    """The processes of a dry run, and what they publish; a context manager.

    Attributes:
        graph: The graph that runs.
        states: (stamp, state, reason) of the bridge, at each change.
        commands: (stamp, posture (14,)) of each command; s and rad.
        measured: Likewise of each joint state.
    """

    def __init__(
        self, directory: Path, *, graph: str = GRAPH, only: Iterable[str] = (), **parameters: dict[str, Any]
    ) -> None:
        """Prepare the processes.

        The bridge is activated as an operator would do it, once its commands are received here.

        Args:
            directory: For the bank, the logs and a parameter file.
            graph: Name or document of a graph, a dry run.
            only: Nodes to run; empty: all.
            **parameters: Node -> parameters laid over those of the graph.
        """
        os.environ.setdefault("ROS_DOMAIN_ID", str(80 + os.getpid() % 20))
        overlay = directory / "overlay.yaml"
        parameters[BRIDGE] = {"activate": "operator", **parameters.get(BRIDGE, {})}
        sections = {f"/efn/{node}": {"ros__parameters": values} for node, values in parameters.items()}
        overlay.write_text(yaml.safe_dump(sections))
        loaded = Graph.load(graph, [overlay], bank=f"{directory}/bank")
        nodes = tuple(node for node in loaded.nodes if not only or node.name in set(only))
        self.graph = replace(loaded, nodes=nodes)
        self.bringup, self.client = Bringup(self.graph, output=directory / "log"), Client()
        self.states: list[tuple[float, str, str]] = []
        self.commands: list[tuple[float, np.ndarray]] = []
        self.measured: list[tuple[float, np.ndarray]] = []
        self._services: dict[str, Any] = {}

    def __enter__(self) -> DryRun:
        self.bringup.__enter__()
        self.client.__enter__()
        others = [name for name in self.graph.names if name != BRIDGE]
        self.client.wait_ready(others, READY_S, watch=self.bringup.watch)
        subscribe = self.client.node.create_subscription

        def keep(into: list) -> Callable[[JointState], None]:
            return lambda m: into.append((from_time(m.header.stamp) * 1e-9, from_field(m.position)[:14]))

        def keep_state(m: BridgeState) -> None:
            self.states.append((from_time(m.stamp) * 1e-9, m.state, m.reason))

        subscribe(BridgeState, "bridge_state", keep_state, LATCHED)
        self._commands = subscribe(JointState, "arm_command", keep(self.commands), ALL_STEPS)
        subscribe(JointState, "arm_state", keep(self.measured), SENSOR_DATA)
        self._mode = self.client.node.create_publisher(Int32, "control_mode", STEPS)
        self._wait(self.activate, READY_S, "the bridge does not activate")
        return self

    def __exit__(self, *exception) -> None:
        self.client.__exit__(*exception)
        self.bringup.__exit__(*exception)

    @property
    def state(self) -> str:
        """The last state of the bridge; empty before the first."""
        return self.states[-1][1] if self.states else ""

    def spin(self, seconds: float) -> None:
        """Receive messages for so long."""
        end = time.monotonic() + seconds
        self._wait(lambda: time.monotonic() > end, seconds + 30, "time does not pass")

    def wait_state(self, state: str, timeout_s: float = RECOVERY_S) -> None:
        """Wait until the bridge is in a state.

        Raises:
            TimeoutError: It is not in time.
        """
        self._wait(lambda: self.state == state, timeout_s, f"the bridge is not {state}")

    def call(self, kind, name: str, **request):
        """Call a service, whose server may have been killed a moment ago and still be discovered.

        Raises:
            TimeoutError: It does not answer.
        """
        for _ in range(ATTEMPTS):
            if name not in self._services:
                self._services[name] = self.client.node.create_client(kind, name)
            client = self._services[name]
            self._wait(client.service_is_ready, RECOVERY_S, f"there is no service {name}")
            try:
                return self.client.call(client, kind.Request(**request), timeout_s=ANSWER_S)
            except TimeoutError:
                del self._services[name]
        raise TimeoutError(f"{name} does not answer")

    def set_fault(self, name: str, on: bool = True) -> None:
        """Begin or end one of FAULTS."""
        self.call(SetBool, f"{DRIVER}/{name}", data=on)

    def trigger(self, service: str) -> bool:
        """Call stop, reset, hand_over or take_back of the bridge; return whether it succeeded."""
        return self.call(Trigger, f"{BRIDGE}/{service}").success

    def activate(self) -> bool:
        """Activate the bridge once its commands are received here; return whether that succeeded."""
        self.spin(0.5)
        activated = self._commands.get_publisher_count() > 0 and self.call(
            ChangeState, f"{BRIDGE}/change_state", transition=Transition(id=Transition.TRANSITION_ACTIVATE)
        )
        return bool(activated and activated.success)

    def recover(self) -> bool:
        """End all faults of the driver and reset the bridge; return whether the reset succeeded."""
        for fault in FAULTS:
            self.set_fault(fault, False)
        self._mode.publish(Int32(data=1))
        self.spin(0.5)
        return self.trigger("reset")

    def resume_tracking(self) -> str:
        """Do what is necessary until the bridge tracks; return in words what that was."""
        actions = []
        self.spin(0.5)
        deadline = time.monotonic() + RECOVERY_S
        while self.state != "tracking" and time.monotonic() < deadline:
            if self.state == "stopped" and self.recover():
                actions.append("reset")
            if self.state == "idle" and self.activate():
                actions.append("activation")
            if self.client.episode.phase != self.client.episode.RUNNING:
                self.client.start_episode(TASK, TASK, 0, record=False)
                actions.append("a new episode")
            self.spin(0.5)
        self.wait_state("tracking")
        self.spin(1.0)
        return ", ".join(dict.fromkeys(actions)) or "nothing"

    def wait_saved(self) -> bool:
        """Wait until the last episode is saved, or is reported as not saved; return whether it is saved."""
        self._wait(
            lambda: self.client.episode.saved or bool(self.client.episode.not_saved_reason),
            RECOVERY_S,
            "the episode is neither saved nor reported as not saved",
        )
        return self.client.episode.saved

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        self.client.spin_until(lambda: self.bringup.watch() or condition(), timeout_s, what)
