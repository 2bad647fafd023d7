# SPDX-License-Identifier: MIT
"""How the bridge of the AgiBot G1 reacts to faults, and how soon: faults in the real processes of a dry run.

Run as `./efn shell python bench/faults.py`; ten minutes. The shipped timeouts of the bridge apply, not the longer ones
of the dry run. Each fault is injected while the bridge tracks; the reaction is the next state that it publishes, at the
stamp of that message. Then motion at rest is measured, and what it takes to resume. Network faults come in a
second run: joint states, actions, commands and one camera pass a relay that loses and delays messages, and the robot's
clock can jump. All published commands are checked against every limit. Prints a table, writes results/faults.json.
"""

from __future__ import annotations

import argparse
import html
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import yaml
from checker import Checker
from dry_run import BRIDGE, DRIVER, GRAPH, DryRun, shipped_timeouts
from efn_ros.msg import CorrectedAction
from sensor_msgs.msg import Image, JointState

from efn_ros.report import provenance
from efn_ros.report.blocks.robot import faults_block
from efn_ros.ros.qos import SENSOR_DATA, STEPS

sys.path.append(str(Path(__file__).parents[1] / "test" / "support"))
from wire import PREFIX, Wire  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "faults.json"
OBSERVED_S, AT_REST_S = 3.0, 1.0  # after a fault; in the last part of which the arms should be at rest
KILLED = ("vla_policy", "camera_ingest", "efn_corrector", "experience_retrieval", "bank_writer", "episode_manager")
PAUSES_S = (0.05, 0.5, 5.0)
LOSS, LATE_S, JUMP_S = 0.3, 0.2, 1.0
CAMERA = "camera/head/image"
RELAYED = {BRIDGE: ("arm_state", "corrected_action"), DRIVER: ("arm_command",), "camera_ingest": (CAMERA,)}
TOPICS = (
    ("arm_state", JointState, SENSOR_DATA),
    ("corrected_action", CorrectedAction, STEPS),
    ("arm_command", JointState, STEPS),
    (CAMERA, Image, SENSOR_DATA),
)
MAX_AGE_S = 0.4  # of joint states that a command may track: with older ones the bridge holds, then stops
CHAIN = 4  # longest chain of states that the table shows one by one

Inject = Callable[[], object]


def main() -> None:
    """Inject all faults and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    faults = []

    def measure(fault: str, inject: Inject, end: Inject = lambda: None) -> dict:
        found = inject_fault(run, checker, fault, inject, end)
        print(f"{found['fault']}: {found['reaction']}; {found['broken'] or 'within every limit'}", flush=True)
        return found

    with tempfile.TemporaryDirectory() as directory:
        run = DryRun(Path(directory), **{BRIDGE: shipped_timeouts()})
        checker = Checker(run.graph.parameters(BRIDGE))
        with run:
            faults += process_faults(run, measure)
    with tempfile.TemporaryDirectory() as directory, Wire(TOPICS) as wire:
        checker.begin_topic()
        parameters = {BRIDGE: shipped_timeouts(), DRIVER: {"use_sim_time": True}}
        run = DryRun(Path(directory), graph=relayed_graph(Path(directory)), **parameters)
        with run:
            faults += network_faults(wire, measure)
    counts = {"commands": checker.checked, "broken": dict(checker.broken)}
    result = {**provenance.here(), **counts, "faults": faults}
    print(html.unescape(faults_block(result)))
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def relayed_graph(directory: Path) -> str:
    """Write the graph of a dry run whose topics pass the relay; return the path of the document."""
    nodes = {node: {"remap": {topic: f"{PREFIX}/{topic}" for topic in topics}} for node, topics in RELAYED.items()}
    document = directory / "relayed.yaml"
    document.write_text(yaml.safe_dump({"extends": GRAPH, "nodes": nodes}))
    return str(document)


def inject_fault(run: DryRun, checker: Checker, fault: str, inject: Inject, end: Inject) -> dict:
    """Inject a fault while the bridge tracks, measure the reaction, end the fault and resume.

    Args:
        run: The dry run.
        checker: Of all commands.
        fault: In words.
        inject: Begins it.
        end: Ends it.
    """
    run.resume_tracking()
    states_before, measured_before, began_s = len(run.states), len(run.measured), time.time()
    driver = run.bringup.process(DRIVER).pid
    inject()
    run.spin(OBSERVED_S)
    changes = run.states[states_before:]
    sent = [posture for at, posture in run.commands if at > began_s + OBSERVED_S - AT_REST_S]
    measured = [posture for _, posture in run.measured[-round(100 * AT_REST_S / 2) :]]
    states = [state for state, _ in groupby(state for _, state, _ in changes)]
    held = bool(states) and states[-1] != "tracking" and len(states) <= CHAIN
    at_rest = held and len(run.measured) > measured_before and run.bringup.process(DRIVER).pid == driver
    error = np.abs(np.mean(measured, axis=0) - sent[-1]).max() if at_rest and sent else None
    end()
    then = run.resume_tracking()
    broken, checked = checker.broken.copy(), checker.checked
    checker.check_topic(run.commands, run.measured, MAX_AGE_S)
    run.commands.clear()
    return {
        "fault": fault,
        "reaction": in_words(states),
        "reason": changes[-1][2] if held else "",
        "after_s": changes[0][0] - began_s if changes else None,
        "sent_at_rest": len(sent) if held else None,
        "hold_error_rad": None if error is None else float(error),
        "moved_rad": float(np.ptp(measured, axis=0).max()) if at_rest else None,
        "commands": checker.checked - checked,
        "broken": dict(checker.broken - broken),
        "then": then,
    }


def in_words(states: list[str]) -> str:
    """Return a chain of states in words."""
    if len(states) > CHAIN:
        return f"{' and '.join(dict.fromkeys(states))} in turn"
    return " -> ".join(states) or "goes on"


def process_faults(run: DryRun, measure: Callable[..., dict]) -> list[dict]:
    """Kill and pause processes, press the e-stop, collide, freeze the joint states, stop."""

    def kill(node: str) -> Inject:
        return lambda: run.bringup.process(node).send_signal(signal.SIGKILL)

    def pause(node: str, seconds: float) -> Inject:
        def paused() -> None:
            process = run.bringup.process(node)
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)

        return paused

    found = [measure(f"kill -9 of {node}", kill(node)) for node in KILLED]
    for node in ("vla_policy", DRIVER, BRIDGE):
        found += [measure(f"{node} is stopped for {s:g} s", pause(node, s)) for s in PAUSES_S]
    run.recover()  # so that the service clients exist before a fault is timed
    found.append(measure("the e-stop is pressed", lambda: run.set_fault("estop")))
    found.append(measure("a collision", lambda: run.set_fault("collide")))
    found.append(measure("joint states freeze, stamps go on", lambda: run.set_fault("freeze")))
    found.append(measure("an operator stops", lambda: run.trigger("stop")))
    return found + [measure(f"kill -9 of {node}", kill(node)) for node in (DRIVER, BRIDGE)]


def network_faults(wire: Wire, measure: Callable[..., dict]) -> list[dict]:
    """Lose, delay and hold back messages, and let the robot's clock jump."""
    share, late, jump = f"{LOSS:.0%}", f"{LATE_S * 1e3:.0f} ms", f"{JUMP_S:g} s"
    lose = lambda *topics: lambda: wire.lose(1.0, *topics)  # noqa: E731
    end_loss, end_delay, end_jump = (lambda: wire.lose(0.0)), (lambda: wire.delay(0.0)), (lambda: wire.jump(0.0))
    return [
        measure(f"{share} of joint states, actions, commands and images are lost", lambda: wire.lose(LOSS), end_loss),
        measure(f"nothing passes for {late}, then all at once", lambda: wire.stall(LATE_S)),
        measure(f"everything comes {late} later", lambda: wire.delay(LATE_S), end_delay),
        measure(f"joint states come {late} later", lambda: wire.delay(LATE_S, "arm_state"), end_delay),
        measure("joint states are lost", lose("arm_state"), end_loss),
        measure("commands are lost", lose("arm_command"), end_loss),
        measure("a camera is gone", lose(CAMERA), end_loss),
        measure(f"the robot's clock jumps ahead by {jump}", lambda: wire.jump(JUMP_S), end_jump),
        measure(f"the robot's clock jumps back by {jump}", lambda: wire.jump(-JUMP_S), end_jump),
    ]


if __name__ == "__main__":
    main()
