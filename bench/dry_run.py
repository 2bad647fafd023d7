"""A dry run of the AgiBot G1 as benches watch it: its processes, all that the bridge says, what it sends and hears."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
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
from efn_ros.ros.conversions import from_field, from_time
from efn_ros.ros.qos import EVERY_STEP, LATCHED, SENSOR_DATA, STEPS
from efn_ros.runtime.graph import Graph, dry_run

BRIDGE, DRIVER, TASK = "agibot_g1_bridge", "agibot_g1_driver", "sway"
FAULTS = ("estop", "freeze", "collide")  # that the driver can be asked for
READY_S, RECOVERY_S, ANSWER_S, ATTEMPTS = 120.0, 60.0, 5.0, 4


def shipped_patience() -> dict[str, float]:
    """That of the graph beside a robot; a dry run's own is longer."""
    parameters = Graph.load("agibot_g1", ()).parameters(BRIDGE)
    return {name: value for name, value in parameters.items() if name.startswith("patience.")}


class DryRun:
    """A context manager. states: (when, state, reason). commands, measured: (when, posture). Times are stamps, s."""

    def __init__(self, directory: Path, *, only: Iterable[str] = (), **parameters: dict[str, Any]) -> None:
        """parameters: of nodes, and of the graph, laid over those of a dry run. only: these nodes alone. The bridge is
        activated as by an operator, when its first command will be heard here."""
        os.environ.setdefault("ROS_DOMAIN_ID", str(80 + os.getpid() % 20))
        overlay = directory / "overlay.yaml"
        parameters[BRIDGE] = {"activate": "operator", **parameters.get(BRIDGE, {})}
        sections = {f"/efn/{node}": {"ros__parameters": values} for node, values in parameters.items()}
        overlay.write_text(yaml.safe_dump(sections))
        graph = Graph.load("agibot_g1", [dry_run("agibot_g1"), overlay], bank=f"{directory}/bank")
        nodes = tuple(node for node in graph.nodes if not only or node.executable in set(only))
        self.graph = Graph(graph.robot, nodes, graph.on_exit)
        self.bringup, self.client = Bringup(self.graph, output=directory / "log"), Client()
        self.states: list[tuple[float, str, str]] = []
        self.commands: list[tuple[float, np.ndarray]] = []
        self.measured: list[tuple[float, np.ndarray]] = []
        self._services: dict[str, Any] = {}

    def __enter__(self) -> DryRun:
        self.bringup.__enter__()
        self.client.__enter__()
        others = [node.executable for node in self.graph.nodes if node.executable != BRIDGE]
        self.client.wait_ready(others, READY_S, watch=self.bringup.watch)
        subscribe = self.client.node.create_subscription

        def keep(into: list) -> Callable[[JointState], None]:
            return lambda m: into.append((from_time(m.header.stamp) * 1e-9, from_field(m.position)[:14]))

        def keep_state(m: BridgeState) -> None:
            self.states.append((from_time(m.stamp) * 1e-9, m.state, m.reason))

        subscribe(BridgeState, "bridge_state", keep_state, LATCHED)
        self._heard = subscribe(JointState, "arm_command", keep(self.commands), EVERY_STEP)
        subscribe(JointState, "arm_state", keep(self.measured), SENSOR_DATA)
        self._mode = self.client.node.create_publisher(Int32, "control_mode", STEPS)
        self._until(self.activate, READY_S, "it does not activate")
        return self

    def __exit__(self, *exception) -> None:
        self.client.__exit__(*exception)
        self.bringup.__exit__(*exception)

    @property
    def state(self) -> str:
        return self.states[-1][1] if self.states else ""

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._until(lambda: time.monotonic() > until, seconds + 30, "time does not pass")

    def until(self, *states: str, timeout_s: float = RECOVERY_S) -> str:
        self._until(
            lambda: self.state in states, timeout_s, f"the bridge is not {' or '.join(states)}: {self.states[-1:]}"
        )
        return self.state

    def call(self, kind, name: str, **request):
        """Of a service whose server may have been killed a moment ago, and still be listed."""
        for _ in range(ATTEMPTS):
            if name not in self._services:
                self._services[name] = self.client.node.create_client(kind, name)
            client = self._services[name]
            self._until(client.service_is_ready, RECOVERY_S, f"{name} is not there")
            try:
                return self.client.call(client, kind.Request(**request), timeout_s=ANSWER_S)
            except TimeoutError:
                del self._services[name]
        raise TimeoutError(f"{name} does not answer")

    def fault(self, name: str, on: bool = True) -> None:
        """One that the driver can be asked for."""
        self.call(SetBool, f"{DRIVER}/{name}", data=on)

    def ask(self, verb: str) -> bool:
        """stop, reset, hand_over or take_back, of the bridge."""
        return self.call(Trigger, f"{BRIDGE}/{verb}").success

    def activate(self) -> bool:
        """Once somebody publishes commands; whether it holds now."""
        self.spin(0.5)
        activated = self._heard.get_publisher_count() > 0 and self.call(
            ChangeState, f"{BRIDGE}/change_state", transition=Transition(id=Transition.TRANSITION_ACTIVATE)
        )
        return bool(activated and activated.success)

    def recover(self) -> bool:
        """End the faults of the driver and reset the bridge, where it is stopped; whether it was reset."""
        for fault in FAULTS:
            self.fault(fault, False)
        self._mode.publish(Int32(data=1))
        self.spin(0.5)
        return self.ask("reset")

    def track(self) -> str:
        """Go on until it tracks; what that took."""
        took = []
        self.spin(0.5)
        deadline = time.monotonic() + RECOVERY_S
        while self.state != "tracking" and time.monotonic() < deadline:
            if self.state == "stopped" and self.recover():
                took.append("reset")
            if self.state == "idle" and self.activate():
                took.append("activation")
            if self.client.episode.phase != self.client.episode.RUNNING:
                self.client.start_episode(TASK, TASK, 0, record=False)
                took.append("a new episode")
            self.spin(0.5)
        self.until("tracking")
        self.spin(1.0)
        return ", ".join(dict.fromkeys(took)) or "nothing"

    def remembered(self) -> None:
        """Wait until the memory has taken the last episode, or has said why it will not."""
        episode = lambda: self.client.episode  # noqa: E731
        self._until(lambda: episode().saved or episode().unsaved, RECOVERY_S, "nobody says what became of the episode")

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        self.client.spin_until(lambda: self.bringup.watch() or condition(), timeout_s, what)
