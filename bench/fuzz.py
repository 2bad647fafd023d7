"""Whatever an arm is told, what is sent to it is within every limit: a million action chunks against a checker.

Run as `./efn shell python bench/fuzz.py`; half an hour on two cores. The bridge of the AgiBot G1, with its shipped
parameters, slower ones and bounds of its space, is told chunks of every kind (near, far, NaN, Inf, wrong shape, huge,
stale, out of order, repeated) while the robot follows, lags, is pushed, falls silent or freezes, an operator stops,
resets and hands over: a million to the bridge itself, by a clock of its own, then as many as ten minutes allow to its
process beside that of the simulated robot, where what is published is checked. Prints counts, writes
results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from checker import Checker
from dry_run import BRIDGE, DRIVER, FAULTS, DryRun
from efn_ros.msg import Chunk, CorrectedAction, StepContext
from tqdm import tqdm

from efn_ros.report import provenance, tables
from efn_ros.robots.agibot_g1 import READY
from efn_ros.robots.bridge import Health, StartRefusedError, State
from efn_ros.ros.conversions import to_field, to_time
from efn_ros.ros.qos import STEPS
from efn_ros.runtime.bridge_factory import make_bridge
from efn_ros.runtime.graph import Graph

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
PERIOD_S, ARMS, ACTION = 0.01, 14, 16
PART = 10_000  # chunks a task
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
SCALES, VELOCITIES = (1.0, 0.3, 0.1), (1.0, 0.3)  # of the bridge; with a velocity of 0.3 the solver fails at times
SPACES = {  # of the wrists' and grippers' places where it starts; m, in the frame of the chest
    "apart": {},
    "in a box": {"workspace.box": [0.2, -0.45, -0.2, 0.5, 0.45, 0.25]},
    "around a block, over a table": {
        "workspace.keep_out": [0.3, -0.1, -0.1, 0.6, 0.1, 0.3, 0.1, -0.8, -0.5, 0.7, 0.8, -0.12]
    },
}
RATE_HZ = 150.0  # chunks a second, of the processes
KNOWN_S = 0.06  # age of joint states that a command may refer to there
MISHAPS = 0.03  # a second: a fault of the robot, an operator's stop, a hand-over
LIMITS = (-1.6, 1.6)  # of where the chunks wander, rad


def part(seed: int) -> tuple[Counter, Counter, Counter, int]:
    """What was told, what became of it, what was broken, and how many commands were checked."""
    rng = np.random.default_rng(seed)
    p = Graph.load("agibot_g1", ()).parameters("agibot_g1_bridge")
    p |= {"speed_scale": float(rng.choice(SCALES)), "joints.velocity": [float(rng.choice(VELOCITIES))]}
    p |= SPACES[str(rng.choice(list(SPACES)))]
    bridge, _ = make_bridge(p)
    checker, told, became = Checker(p), Counter(), Counter()
    robot, now_s, step, goal = np.array(READY), 0.0, 0, np.array(READY)
    way, until = "follows", 0
    while told.total() < PART:
        now_s += PERIOD_S
        if rng.random() < 2e-4:  # the bridge itself did not run: it begins at rest where it was
            now_s += 0.3
            checker.pause()
        if until <= 0:
            way, until = rng.choice(["follows"] * 6 + ["lags", "pushed", "silent", "frozen"]), int(rng.integers(5, 120))
        until -= 1
        if way == "pushed" and rng.random() < 0.1:
            robot = robot + rng.normal(0, 0.1, ARMS)
        if way != "silent":
            noise = 0 if way == "frozen" else rng.normal(0, 5e-4, ARMS)
            if way != "frozen" or bridge._seen == []:
                measured = robot + noise
            bridge.measured(measured, round(now_s * 1e9), now_s)
        bridge.health = Health(("a fault",) if rng.random() < 2e-4 else ())
        for _ in range(rng.integers(0, 2)):
            kind = str(rng.choice(KINDS))
            told[kind] += 1
            chunk, age_s, number = make(rng, kind, goal), 0.02, (step := step + 1)
            goal = np.clip(goal + rng.normal(0, 0.03, ARMS), *LIMITS)
            age_s = {"stale": 0.5, "from the future": -3.0}.get(kind, age_s)
            number = {"repeated": step - 1, "overtaken": step - 5}.get(kind, number)
            bridge.act(chunk, "episode", number, age_s, now_s)
        if rng.random() < 1e-3:
            {0: lambda: bridge.stop("asked"), 1: bridge.idle, 2: lambda: quietly(bridge.hand_over)}[
                int(rng.integers(3))
            ]()
        if bridge.state in (State.IDLE, State.STOPPED, State.YIELDED) and rng.random() < 0.05:
            way, until, robot = "follows", 30, np.clip(robot, checker.low, checker.high)
            if rng.random() < 0.2:
                robot = np.array(READY)
            goal = robot.copy()
            again = {State.IDLE: bridge.start, State.STOPPED: bridge.reset, State.YIELDED: bridge.take_back}
            quietly(partial(again[bridge.state], now_s))
            checker.begin()  # the first command is where the robot stands, wherever the last one was
        order = bridge.tick(now_s)
        became[order.state.value] += 1
        if order.posture is None:
            checker.begin()
            continue
        checker.check(order.posture, measured)
        share = {"lags": 0.02, "frozen": 0.0}.get(way, 0.3)
        robot = robot + share * (order.posture - robot)
    became.update({f"actions {name}": count for name, count in bridge.counts.items()})
    return told, became, checker.broken, checker.checked


def make(rng: np.random.Generator, kind: str, goal: np.ndarray) -> np.ndarray:
    """A chunk (30, 16), or what is none."""
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


def at_the_topic(space: str, seconds: float, seed: int) -> tuple[Counter, Counter, int]:
    """The bridge's process with that of the simulated robot: what was told, what was broken, how many commands."""
    rng, told = np.random.default_rng(seed), Counter()
    with tempfile.TemporaryDirectory() as directory:
        run = DryRun(Path(directory), only=(BRIDGE, DRIVER), **{BRIDGE: SPACES[space], DRIVER: {"camera_rate_hz": 0.0}})
        with run:
            out = run.client.node.create_publisher(CorrectedAction, "corrected_action", STEPS)
            goal, step = np.array(READY), 0

            def tell() -> None:
                nonlocal goal, step
                kind = str(rng.choice(KINDS))
                told[kind] += 1
                step += 1
                chunk = make(rng, kind, goal)
                goal = np.clip(goal + rng.normal(0, 0.03, ARMS), *LIMITS)
                age_s = {"stale": 0.5, "from the future": -3.0}.get(kind, 0.02)
                number = max(step - {"repeated": 1, "overtaken": 5}.get(kind, 0), 0)
                rows, columns = (*np.shape(chunk), 0)[:2]
                data = to_field(np.asarray(chunk, np.float32)[: rng.integers(1, 30) if rng.random() < 0.01 else None])
                context = StepContext(episode_id=f"fuzz {seed}", step=number)
                context.header.stamp = to_time(time.time_ns() - round(age_s * 1e9))
                corrected = Chunk(horizon=rows, action_size=columns, data=data)
                out.publish(CorrectedAction(context=context, corrected=corrected))

            run.until("holding")
            run.client.node.create_timer(1 / RATE_HZ, tell)
            until = time.monotonic() + seconds
            with tqdm(total=round(seconds), desc=f"processes, {space}", unit="s") as bar:
                while time.monotonic() < until:
                    run.spin(1.0)
                    bar.update()
                    if run.state == "stopped":
                        run.recover()
                        goal = run.measured[-1][1].copy()
                    elif run.state == "yielded":
                        run.ask("take_back")
                    elif rng.random() < MISHAPS:
                        mishap = rng.choice([*FAULTS, "stop", "hand_over"])
                        run.fault(mishap) if mishap in FAULTS else run.ask(mishap)
        checker = Checker(run.graph.parameters(BRIDGE))
        checker.check_topic(run.commands, run.measured, KNOWN_S)
    return told, checker.broken, checker.checked


def quietly(does) -> None:
    try:
        does()
    except StartRefusedError:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=600.0, help="of the real processes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    told, became, broken, checked = Counter(), Counter(), Counter(), 0
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        parts = range(-(-args.chunks // PART))
        for one in tqdm(pool.imap_unordered(part, parts), desc="chunks", total=len(parts), unit_scale=PART):
            told, became, broken, checked = told + one[0], became + one[1], broken + one[2], checked + one[3]
    result = {**provenance.here(), "n": told.total(), "told": dict(told), "became": dict(became)}
    result |= {"commands": checked, "broken": dict(broken)}
    print(tables.markdown(["told", "chunks"], [[kind, told[kind]] for kind in KINDS]))
    print(f"\n{checked} commands checked, {broken.total()} outside a limit {dict(broken)}\n{dict(became)}")
    told, broken, checked = Counter(), Counter(), 0
    for seed, space in enumerate(SPACES):
        one = at_the_topic(space, args.seconds / len(SPACES), seed)
        told, broken, checked = told + one[0], broken + one[1], checked + one[2]
    print(f"\nat the topic: {told.total()} chunks, {checked} commands, {broken.total()} outside a limit {dict(broken)}")
    topic = {"seconds": args.seconds, "n": told.total(), "commands": checked, "broken": dict(broken)}
    args.results.write_text(json.dumps(result | {"topic": topic}, indent=1) + "\n")
    print(f"\nresults  {args.results}")


if __name__ == "__main__":
    main()
