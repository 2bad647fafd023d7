"""What the bridge of the AgiBot G1 does when something fails, and how soon: faults in the real processes of a dry run.

Run as `./efn shell python bench/faults.py`; ten minutes. The shipped patience of the bridge applies, not the dry
run's. Each fault is injected while the arms are tracking; its reaction is the next state that the bridge says, its time
that of the message's stamp. Then it is seen whether anything moved, and what it takes to go on. Faults of the wire come
in a second run, in which joint states, actions, commands and one camera pass a relay that loses and delays, and the
robot's clock is one that can jump. All commands, as published, are checked against every limit. Prints a table, writes
results/faults.json.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
from checker import Checker
from dry_run import BRIDGE, DRIVER, DryRun, shipped_patience
from efn_ros.msg import CorrectedAction
from sensor_msgs.msg import Image, JointState

from efn_ros.report import provenance, tables
from efn_ros.ros.qos import SENSOR_DATA, STEPS
from efn_ros.ros.wire import Wire

RESULTS = Path(__file__).parent / "results" / "faults.json"
WATCHED_S, SETTLED_S = 3.0, 1.0  # after a fault; of which the last part is at rest
KILLED = ("vla_policy", "camera_ingest", "efn_corrector", "experience_retrieval", "bank_writer", "episode_manager")
PAUSES_S = (0.05, 0.5, 5.0)
LOSS, LATE_S, JUMP_S = 0.3, 0.2, 1.0
CAMERA = "camera/head/image"
THROUGH = {BRIDGE: ("arm_state", "corrected_action"), DRIVER: ("arm_command",), "camera_ingest": (CAMERA,)}
WIRED = (
    ("arm_state", JointState, SENSOR_DATA),
    ("corrected_action", CorrectedAction, STEPS),
    ("arm_command", JointState, STEPS),
    (CAMERA, Image, SENSOR_DATA),
)
KNOWN_S = 0.4  # age of joint states that a command may refer to: the bridge holds, then stops, beyond
CHAIN = 4  # states in a row that a table shows


def watch(run: DryRun, checker: Checker, what: str, inject: Callable[[], None], end: Callable[[], None]) -> dict:
    """Inject a fault, see what it does, end it."""
    run.track()
    before, measured, began_s = len(run.states), len(run.measured), time.time()
    robot = run.bringup.process(DRIVER).pid
    inject()
    run.spin(WATCHED_S)
    said = run.states[before:]
    after = [posture for at, posture in run.commands if at > began_s + WATCHED_S - SETTLED_S]
    seen = [posture for _, posture in run.measured[-round(100 * SETTLED_S / 2) :]]
    first, states = said[0] if said else None, [state for state, _ in groupby(state for _, state, _ in said)]
    held = bool(states) and states[-1] != "tracking" and len(states) <= CHAIN
    rests = held and len(run.measured) > measured and run.bringup.process(DRIVER).pid == robot
    error = np.abs(np.mean(seen, axis=0) - after[-1]).max() if rests and after else None
    end()
    then = run.track()
    broken, checked = checker.broken.copy(), checker.checked
    checker.check_topic(run.commands, run.measured, KNOWN_S)
    run.commands.clear()
    return {
        "fault": what,
        "reaction": reaction(states),
        "reason": said[-1][2] if held else "",
        "after_s": first[0] - began_s if first else None,
        "sent_at_rest": len(after) if held else None,
        "hold_error_rad": None if error is None else float(error),
        "moved_rad": float(np.ptp(seen, axis=0).max()) if rests else None,
        "commands": checker.checked - checked,
        "broken": dict(checker.broken - broken),
        "then": then,
    }


def reaction(states: list[str]) -> str:
    if len(states) > CHAIN:
        return f"{' and '.join(dict.fromkeys(states))} in turn"
    return " -> ".join(states) or "goes on"


def of_processes(run: DryRun, see: Callable[..., dict]) -> list[dict]:
    def kill(node: str) -> Callable[[], None]:
        return lambda: run.bringup.process(node).send_signal(signal.SIGKILL)

    def pause(node: str, seconds: float) -> Callable[[], None]:
        def paused() -> None:
            process = run.bringup.process(node)
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)

        return paused

    told = [see(f"kill -9 of {node}", kill(node)) for node in KILLED]
    for node in ("vla_policy", DRIVER, BRIDGE):
        told += [see(f"{node} is stopped for {s:g} s", pause(node, s)) for s in PAUSES_S]
    run.recover()  # that asking takes no longer than it has to
    told.append(see("the e-stop is pressed", lambda: run.fault("estop")))
    told.append(see("a collision", lambda: run.fault("collide")))
    told.append(see("joint states freeze, stamps go on", lambda: run.fault("freeze")))
    told.append(see("an operator stops", lambda: run.ask("stop")))
    told += [see(f"kill -9 of {node}", kill(node)) for node in (DRIVER, BRIDGE)]
    return told


def of_the_wire(wire: Wire, see: Callable[..., dict]) -> list[dict]:
    share, late, jump = f"{LOSS:.0%}", f"{LATE_S * 1e3:.0f} ms", f"{JUMP_S:g} s"
    lost = lambda *topics: lambda: wire.lose(1.0, *topics)  # noqa: E731
    found = lambda: wire.lose(0.0)  # noqa: E731
    return [
        see(f"{share} of joint states, actions, commands and images are lost", lambda: wire.lose(LOSS), found),
        see(f"nothing passes for {late}, then all at once", lambda: wire.stall(LATE_S)),
        see(f"everything comes {late} later", lambda: wire.delay(LATE_S), lambda: wire.delay(0.0)),
        see(f"joint states come {late} later", lambda: wire.delay(LATE_S, "arm_state"), lambda: wire.delay(0.0)),
        see("joint states are lost", lost("arm_state"), found),
        see("commands are lost", lost("arm_command"), found),
        see("a camera is gone", lost(CAMERA), found),
        see(f"the robot's clock jumps ahead by {jump}", lambda: wire.jump(JUMP_S), lambda: wire.jump(0.0)),
        see(f"the robot's clock jumps back by {jump}", lambda: wire.jump(-JUMP_S), lambda: wire.jump(0.0)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    told = []

    def see(what: str, inject: Callable[[], None], end: Callable[[], None] = lambda: None) -> dict:
        one = watch(run, checker, what, inject, end)
        print(f"{one['fault']}: {one['reaction']}; {one['broken'] or 'within every limit'}", flush=True)
        return one

    with tempfile.TemporaryDirectory() as directory:
        run = DryRun(Path(directory), **{BRIDGE: shipped_patience()})
        checker = Checker(run.graph.parameters(BRIDGE))
        with run:
            told += of_processes(run, see)
    remappings = {f"remap.{node}": [f"{t}:=wire/{t}" for t in topics] for node, topics in THROUGH.items()}
    remappings["remap.camera_ingest"].append("joint_states:=proprioception")
    with tempfile.TemporaryDirectory() as directory, Wire(WIRED) as wire:
        checker.begin_topic()
        run = DryRun(Path(directory), graph=remappings, **{BRIDGE: shipped_patience(), DRIVER: {"use_sim_time": True}})
        with run:
            told += of_the_wire(wire, see)
    ms = lambda value: "-" if value is None else tables.milliseconds(value)  # noqa: E731
    rad = lambda value: "-" if value is None else f"{value:.4f}"  # noqa: E731
    rows = [
        [f["fault"], f["reaction"], ms(f["after_s"]), rad(f["hold_error_rad"]), f["reason"], f["then"]] for f in told
    ]
    print(tables.markdown(["fault", "reaction", "after, ms", "hold error, rad", "reason", "to go on"], rows))
    print(f"\n{checker.checked} commands checked, outside a limit: {dict(checker.broken) or 'none'}")
    result = {"commands": checker.checked, "broken": dict(checker.broken), "faults": told}
    args.results.write_text(json.dumps({**provenance.here(), **result}, indent=1) + "\n")
    print(f"results  {args.results}")


if __name__ == "__main__":
    main()
