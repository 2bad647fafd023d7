"""What the bridge of the AgiBot G1 does when something fails, and how soon: faults in the real processes of a dry run.

Run as `./efn shell python bench/faults.py`; five minutes. The shipped patience of the bridge applies, not the dry
run's. Each fault is injected while the arms are tracking; its reaction is the next state that the bridge says, its time
that of the message's stamp. Then it is seen whether anything moved, and what it takes to go on. Prints a table, writes
results/faults.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import yaml
from efn_ros.msg import BridgeState
from sensor_msgs.msg import JointState
from std_msgs.msg import Int32
from std_srvs.srv import SetBool, Trigger

from efn_ros.graph import Graph, dry_run
from efn_ros.report import provenance, tables
from efn_ros.ros.bringup import Bringup
from efn_ros.ros.client import Client
from efn_ros.ros.conversions import from_field, from_time
from efn_ros.ros.qos import EVERY_STEP, LATCHED, SENSOR_DATA, STEPS

RESULTS = Path(__file__).parent / "results" / "faults.json"
WATCHED_S, SETTLED_S = 3.0, 1.0  # after a fault; of which the last part is at rest
KILLED = ("vla_policy", "camera_ingest", "efn_corrector", "experience_retrieval", "bank_writer", "episode_manager")
PAUSES_S = (0.05, 0.5, 5.0)


class Run:
    """A dry run, with all that the bridge says, and what it sends and hears."""

    def __init__(self, directory: Path) -> None:
        patience = Graph.load("agibot_g1", ()).parameters("agibot_g1_bridge")
        shipped = {name: value for name, value in patience.items() if name.startswith("patience.")}
        overlay = directory / "overlay.yaml"
        overlay.write_text(yaml.safe_dump({"/efn/agibot_g1_bridge": {"ros__parameters": shipped}}))
        graph = Graph.load("agibot_g1", [dry_run("agibot_g1"), overlay], bank=f"{directory}/bank")
        self.bringup, self.client = Bringup(graph, output=directory / "log"), Client()
        self.states: list[tuple[float, str, str]] = []
        self.commands: list[tuple[float, np.ndarray]] = []
        self.measured: list[tuple[float, np.ndarray]] = []
        self._nodes = [node.executable for node in graph.nodes]

    def __enter__(self) -> Run:
        self.bringup.__enter__()
        self.client.__enter__()
        self.client.wait_ready(self._nodes, 120.0, watch=self.bringup.watch)
        node = self.client.node

        def keep(into: list) -> Callable[[JointState], None]:
            return lambda m: into.append((from_time(m.header.stamp) * 1e-9, from_field(m.position)))

        node.create_subscription(
            BridgeState, "bridge_state", lambda m: self.states.append((from_time(m.stamp) * 1e-9, m.state, m.reason)),
            LATCHED,
        )  # fmt: skip
        node.create_subscription(JointState, "arm_command", keep(self.commands), EVERY_STEP)
        node.create_subscription(JointState, "arm_state", keep(self.measured), SENSOR_DATA)
        self._clients: dict[str, object] = {}
        self._mode = node.create_publisher(Int32, "control_mode", STEPS)
        return self

    def __exit__(self, *exception) -> None:
        self.client.__exit__(*exception)
        self.bringup.__exit__(*exception)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds

        def passed() -> bool:
            self.bringup.watch()
            return time.monotonic() > until

        self.client.spin_until(passed, seconds + 30, "time does not pass")

    def until(self, *states: str, timeout_s: float = 60.0) -> str:
        self.client.spin_until(
            lambda: self.states and self.states[-1][1] in states and not self.bringup.watch(), timeout_s,
            f"the bridge is not {' or '.join(states)}: {self.states[-1:]}",
        )  # fmt: skip
        return self.states[-1][1]

    def call(self, kind, name: str, **request):
        """Of a service whose server may have been killed and started anew since it was called last."""
        if name not in self._clients or not self._clients[name].service_is_ready():
            self._clients[name] = self.client.node.create_client(kind, name)
        client = self._clients[name]
        self.client.spin_until(lambda: self.bringup.watch() or client.service_is_ready(), 60.0, f"{name} is not there")
        return self.client.call(client, kind.Request(**request), timeout_s=30.0)

    def track(self) -> str:
        """Go on until it tracks; what that took."""
        took = []
        self.spin(0.5)
        deadline = time.monotonic() + 60
        while self.states[-1][1] != "tracking" and time.monotonic() < deadline:
            if self.states[-1][1] == "stopped":
                for fault in ("estop", "freeze", "collide"):
                    self.call(SetBool, f"agibot_g1_driver/{fault}", data=False)
                self._mode.publish(Int32(data=1))
                self.spin(0.5)
                if self.call(Trigger, "agibot_g1_bridge/reset").success:
                    took.append("reset")
            if self.client.episode.phase != self.client.episode.RUNNING:
                self.client.start_episode("sway", "sway", 0, record=False)
                took.append("a new episode")
            self.spin(0.5)
        self.until("tracking")
        self.spin(1.0)
        return ", ".join(dict.fromkeys(took)) or "nothing"

    def watch(self, what: str, inject: Callable[[], None]) -> dict:
        """Inject a fault, and see."""
        self.track()
        states, commands, began_s = len(self.states), len(self.commands), time.time()
        inject()
        self.spin(WATCHED_S)
        said = self.states[states:]
        after = [posture for at, posture in self.commands[commands:] if at > began_s + WATCHED_S - SETTLED_S]
        seen = [posture for at, posture in self.measured if at > time.time() - SETTLED_S / 2]
        first = said[0] if said else None
        held = first is not None and said[-1][1] != "tracking"
        rests = held and len(seen) > 1
        error = np.abs(np.mean(seen, axis=0) - after[-1]).max() if rests and after else None
        result = {
            "fault": what,
            "reaction": " -> ".join(state for state, _ in groupby(state for _, state, _ in said)) or "goes on",
            "reason": said[-1][2] if said else "",
            "after_s": first[0] - began_s if first else None,
            "sent_at_rest": len(after) if held else None,
            "hold_error_rad": None if error is None else float(error),
            "moved_rad": float(np.ptp(seen, axis=0).max()) if rests else None,
        }
        return result | {"then": self.track()}


def faults(run: Run) -> list[dict]:
    def kill(node: str) -> Callable[[], None]:
        return lambda: run.bringup.process(node).send_signal(signal.SIGKILL)

    def pause(node: str, seconds: float) -> Callable[[], None]:
        def paused() -> None:
            process = run.bringup.process(node)
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)

        return paused

    def driver(fault: str) -> Callable[[], None]:
        return lambda: run.call(SetBool, f"agibot_g1_driver/{fault}", data=True)

    told = [run.watch(f"kill -9 of {node}", kill(node)) for node in KILLED]
    for node in ("vla_policy", "agibot_g1_driver", "agibot_g1_bridge"):
        told += [run.watch(f"{node} is stopped for {s:g} s", pause(node, s)) for s in PAUSES_S]
    for fault in ("estop", "collide", "freeze"):  # that asking takes no longer than it has to
        run.call(SetBool, f"agibot_g1_driver/{fault}", data=False)
    run.track()
    told.append(run.watch("the e-stop is pressed", driver("estop")))
    told.append(run.watch("a collision", driver("collide")))
    told.append(run.watch("joint states freeze, stamps go on", driver("freeze")))
    told.append(run.watch("an operator stops", lambda: run.call(Trigger, "agibot_g1_bridge/stop")))
    told.append(run.watch("kill -9 of agibot_g1_driver", kill("agibot_g1_driver")))
    told.append(run.watch("kill -9 of agibot_g1_bridge", kill("agibot_g1_bridge")))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(80 + os.getpid() % 20))
    with tempfile.TemporaryDirectory() as directory, Run(Path(directory)) as run:
        run.client.start_episode("sway", "sway", 0, record=False)
        told = faults(run)
    ms = lambda value: "-" if value is None else tables.milliseconds(value)  # noqa: E731
    rad = lambda value: "-" if value is None else f"{value:.4f}"  # noqa: E731
    rows = [
        [f["fault"], f["reaction"], ms(f["after_s"]), rad(f["hold_error_rad"]), f["reason"], f["then"]] for f in told
    ]
    print(tables.markdown(["fault", "reaction", "after, ms", "hold error, rad", "reason", "to go on"], rows))
    args.results.write_text(json.dumps({**provenance.here(), "faults": told}, indent=1) + "\n")
    print(f"\nresults  {args.results}")


if __name__ == "__main__":
    main()
