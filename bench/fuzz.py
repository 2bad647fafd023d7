# SPDX-License-Identifier: MIT
"""Whatever actions come in, commands are within every limit: a million action chunks against a checker.

Run as `./efn shell python bench/fuzz.py`; half an hour on two cores. The bridge of the AgiBot G1, with its shipped
parameters, lower speeds and bounds of its workspace, receives chunks of every kind (near, far, NaN, Inf, wrong shape,
huge, stale, out of order, repeated) while the robot follows, lags, is pushed, falls silent or freezes, and an operator
stops, resets and hands over: a million go to the bridge itself, by a clock of its own, then as many as ten minutes
allow to its process beside that of the simulated robot, where the published commands are checked. Prints a summary,
writes results/fuzz.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from checker import Checker
from dry_run import BRIDGE, DRIVER, FAULTS, ROBOT, DryRun
from efn_ros.msg import ActionChunk, CorrectedAction, StepHeader
from tqdm import tqdm

from efn_ros.report import provenance
from efn_ros.report.blocks.robot import fuzz_block
from efn_ros.robots.agibot_g1 import READY
from efn_ros.robots.bridge import Bridge, Health, StartRefusedError, State
from efn_ros.ros.fields import to_field, to_time
from efn_ros.ros.qos import STEPS
from efn_ros.runtime.bridge_factory import make_bridge
from efn_ros.runtime.graph import Graph

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
PERIOD_S, ARMS, ACTION = 0.01, 14, 16
BATCH = 10_000  # chunks that one process sends at a time
KINDS = (
    "near",
    "steps",
    "far",
    "not finite",
    "wrong shape",
    "huge",
    "stale",
    "from the future",
    "repeated",
    "overtaken",
)
AGES_S = {"stale": 0.5, "from the future": -3.0}  # kind -> age of what the chunk answers
AGE_S = 0.02  # of the other kinds
STEPS_BACK = {"repeated": 1, "overtaken": 5}
BEHAVIOURS = ("follows",) * 6 + ("lags", "pushed", "silent", "frozen")  # of the robot, drawn evenly
SPEED_SCALES, VELOCITIES = (1.0, 0.3, 0.1), (1.0, 0.3)  # with a velocity of 0.3 the solver fails at times
WORKSPACES = {  # bounds of wrists and grippers; m, in the frame of the chest
    "apart": {},
    "in a box": {"workspace.box": [0.2, -0.45, -0.2, 0.5, 0.45, 0.25]},
    "around a block, over a table": {
        "workspace.keep_out": [0.3, -0.1, -0.1, 0.6, 0.1, 0.3, 0.1, -0.8, -0.5, 0.7, 0.8, -0.12]
    },
}
RATE_HZ = 150.0  # chunks a second, to the process
MAX_AGE_S = 0.06  # of the joint states that a command of the process may track
EVENTS = 0.03  # a second: a fault of the robot, an operator's stop, a hand-over
GOALS = (-1.6, 1.6)  # range of the joint positions that chunks are drawn around, rad

Counts = tuple[Counter, Counter, Counter, int]  # chunks by kind, what happened to them, broken limits, commands


def main() -> None:
    """Fuzz the bridge, then its process, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the real processes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    sent, became, broken, commands = Counter(), Counter(), Counter(), 0
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        batches = range(-(-args.chunks // BATCH))
        fuzzed = pool.imap_unordered(fuzz_bridge, batches)
        for found in tqdm(fuzzed, desc="chunks", total=len(batches), unit_scale=BATCH):
            sent, became, broken = sent + found[0], became + found[1], broken + found[2]
            commands += found[3]
    result = {**provenance.here(), "n": sent.total(), "sent": dict(sent), "became": dict(became)}
    result |= {"commands": commands, "broken": dict(broken)}
    sent, broken, commands = 0, Counter(), 0
    for seed, workspace in enumerate(WORKSPACES):
        found = fuzz_process(workspace, args.seconds / len(WORKSPACES), seed)
        sent, broken, commands = sent + found[0], broken + found[1], commands + found[2]
    result["topic"] = {"seconds": args.seconds, "n": sent, "commands": commands, "broken": dict(broken)}
    print(f"{fuzz_block(result)}\n\noutside a limit: {result['broken']}, {result['topic']['broken']}")
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


def fuzz_bridge(seed: int) -> Counts:
    """Send BATCH chunks to a bridge, by a clock of its own."""
    rng = np.random.default_rng(seed)
    p = Graph.load(ROBOT).parameters(BRIDGE)
    p |= {"speed_scale": float(rng.choice(SPEED_SCALES)), "joints.velocity": [float(rng.choice(VELOCITIES))]}
    p |= WORKSPACES[str(rng.choice(list(WORKSPACES)))]
    bridge, _ = make_bridge(p)
    checker, sent, became = Checker(p), Counter(), Counter()
    robot, now_s, step, goal = np.array(READY), 0.0, 0, np.array(READY)
    measured: np.ndarray | None = None
    behaviour, periods = "follows", 0  # of the robot, for so many periods more
    while sent.total() < BATCH:
        now_s += PERIOD_S
        if rng.random() < 2e-4:  # the bridge itself did not run: it begins at rest where it was
            now_s += 0.3
            checker.pause()
        if periods <= 0:
            behaviour, periods = rng.choice(BEHAVIOURS), int(rng.integers(5, 120))
        periods -= 1
        if behaviour == "pushed" and rng.random() < 0.1:
            robot = robot + rng.normal(0, 0.1, ARMS)
        if behaviour != "silent":
            noise = 0 if behaviour == "frozen" else rng.normal(0, 5e-4, ARMS)
            if behaviour != "frozen" or measured is None:
                measured = robot + noise
            bridge.update_joint_states(measured, round(now_s * 1e9), now_s)
        bridge.health = Health(("a fault",) if rng.random() < 2e-4 else ())
        for _ in range(rng.integers(0, 2)):
            kind = str(rng.choice(KINDS))
            sent[kind] += 1
            chunk, step = random_chunk(rng, kind, goal), step + 1
            goal = next_goal(rng, goal)
            bridge.act(chunk, "episode", step - STEPS_BACK.get(kind, 0), AGES_S.get(kind, AGE_S), now_s)
        if rng.random() < 1e-3:
            interrupt(bridge, int(rng.integers(3)))
        if bridge.state in (State.IDLE, State.STOPPED, State.YIELDED) and rng.random() < 0.05:
            behaviour, periods, robot = "follows", 30, np.clip(robot, checker.low, checker.high)
            if rng.random() < 0.2:
                robot = np.array(READY)
            goal = robot.copy()
            resume = {State.IDLE: bridge.start, State.STOPPED: bridge.reset, State.YIELDED: bridge.take_back}
            with contextlib.suppress(StartRefusedError):
                resume[bridge.state](now_s)
            checker.begin()  # the first command is where the robot stands, wherever the last one was
        command = bridge.tick(now_s)
        became[command.state.value] += 1
        if command.posture is None:
            checker.begin()
            continue
        checker.check(command.posture, measured)
        share = {"lags": 0.02, "frozen": 0.0}.get(behaviour, 0.3)
        robot = robot + share * (command.posture - robot)
    became.update({f"actions {name}": count for name, count in bridge.counts.items()})
    return sent, became, checker.broken, checker.checked


def interrupt(bridge: Bridge, which: int) -> None:
    """Stop a bridge, make it idle or hand it over."""
    with contextlib.suppress(StartRefusedError):
        (partial(bridge.stop, "the fuzz stops it"), bridge.deactivate, bridge.hand_over)[which]()


def random_chunk(rng: np.random.Generator, kind: str, goal: np.ndarray) -> np.ndarray:
    """Return a chunk (30, 16) of one of KINDS; of "wrong shape", another array."""
    arms = goal + np.cumsum(rng.normal(0, 0.01, (30, ARMS)), axis=0)
    if kind == "steps":
        arms = arms + rng.normal(0, 0.2, (30, ARMS))
    elif kind == "far":
        arms = rng.uniform(-4, 4, (30, ARMS))
    elif kind == "huge":
        arms = arms * 10.0 ** rng.uniform(3, 38)
    chunk = np.zeros((30, ACTION), np.float32)
    with np.errstate(over="ignore"):
        chunk[:, [*range(7), *range(8, 15)]] = arms
    chunk[:, [7, 15]] = rng.uniform(-1, 2, (30, 2))
    if kind == "not finite":
        chunk[rng.integers(30), rng.integers(ACTION)] = rng.choice([np.nan, np.inf, -np.inf])
    elif kind == "wrong shape":
        return [chunk[:, :-1], chunk[:0], chunk[0], np.zeros((0, 0), np.float32)][rng.integers(4)]
    return chunk


def next_goal(rng: np.random.Generator, goal: np.ndarray) -> np.ndarray:
    """Return the next joint positions of a random walk."""
    return np.clip(goal + rng.normal(0, 0.03, ARMS), *GOALS)


def random_action(rng: np.random.Generator, kind: str, goal: np.ndarray, episode: str, step: int) -> CorrectedAction:
    """Return a message that holds a random chunk; of one in a hundred the data are too short."""
    chunk = random_chunk(rng, kind, goal)
    rows, columns = (*np.shape(chunk), 0)[:2]
    data = to_field(np.asarray(chunk, np.float32)[: rng.integers(1, 30) if rng.random() < 0.01 else None])
    context = StepHeader(episode_id=episode, step=max(step - STEPS_BACK.get(kind, 0), 0))
    context.header.stamp = to_time(time.time_ns() - round(AGES_S.get(kind, AGE_S) * 1e9))
    return CorrectedAction(context=context, corrected=ActionChunk(horizon=rows, action_size=columns, data=data))


def fuzz_process(workspace: str, seconds: float, seed: int) -> tuple[int, Counter, int]:
    """Send chunks to the process of the bridge beside that of the simulated robot.

    Returns:
        How many chunks, broken limits, and how many commands were published.
    """
    rng, sent = np.random.default_rng(seed), 0
    parameters = {BRIDGE: WORKSPACES[workspace], DRIVER: {"camera_rate_hz": 0.0}}
    with tempfile.TemporaryDirectory() as directory:
        run = DryRun(Path(directory), only=(BRIDGE, DRIVER), **parameters)
        with run:
            out = run.client.node.create_publisher(CorrectedAction, "corrected_action", STEPS)
            goal = np.array(READY)

            def send() -> None:
                nonlocal goal, sent
                sent += 1
                out.publish(random_action(rng, str(rng.choice(KINDS)), goal, f"fuzz {seed}", sent))
                goal = next_goal(rng, goal)

            run.wait_state("holding")
            run.client.node.create_timer(1 / RATE_HZ, send)
            end = time.monotonic() + seconds
            with tqdm(total=round(seconds), desc=f"processes, {workspace}", unit="s") as bar:
                while time.monotonic() < end:
                    run.spin(1.0)
                    bar.update()
                    if run.state == "stopped":
                        run.recover()
                        goal = run.measured[-1][1].copy()
                    elif run.state == "yielded":
                        run.trigger("take_back")
                    elif rng.random() < EVENTS:
                        event = rng.choice([*FAULTS, "stop", "hand_over"])
                        run.set_fault(event) if event in FAULTS else run.trigger(event)
        checker = Checker(run.graph.parameters(BRIDGE))
        checker.check_topic(run.commands, run.measured, MAX_AGE_S)
    return sent, checker.broken, checker.checked


if __name__ == "__main__":
    main()
