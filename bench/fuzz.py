"""Whatever an arm is told, what is sent to it is within every limit: a million action chunks against a checker.

Run as `./efn shell python bench/fuzz.py`; ten minutes on two cores. The bridge of the AgiBot G1, with its shipped
parameters and slower ones, is told chunks of every kind (near, far, NaN, Inf, wrong shape, huge, stale, out of order,
repeated) while the robot follows, lags, is pushed, falls silent or freezes, an operator stops, resets and hands over.
The checker knows nothing of the bridge: it looks at what is sent, and at what was measured last. Prints counts, writes
results/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from efn_ros.assembly import make_bridge
from efn_ros.graph import Graph
from efn_ros.report import provenance, tables
from efn_ros.robots.agibot_g1 import READY, WRISTS, load_arms
from efn_ros.robots.bridge import Health, StartRefusedError, State

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
ROUNDING = 1e-9  # rad; a third difference at 100 Hz is of the size of 1e-5


class Checker:
    """Of the commands one after another; a pause, or a new start, begins anew at rest."""

    def __init__(self, p: dict) -> None:
        each = lambda name: np.asarray(p[f"joints.{name}"]) * np.ones(ARMS)  # noqa: E731
        self.low, self.high, self.tracking = each("low"), each("high"), each("tracking")
        rates = [each(name) * p["speed_scale"] for name in ("velocity", "acceleration", "jerk")]
        self.bounds = [rate * PERIOD_S**order for order, rate in enumerate(rates, 1)]
        self.arms, self.apart = load_arms(), p["workspace.wrists_apart_m"]
        self.broken, self.checked, self.sent = Counter(), 0, []

    def begin(self) -> None:
        self.sent = []

    def check(self, command: np.ndarray, measured: np.ndarray) -> None:
        self.checked += 1
        self.sent = (self.sent or [command] * 3)[-3:] + [command]
        if not np.isfinite(command).all() or (command < self.low).any() or (command > self.high).any():
            self.broken["position"] += 1
        if (np.abs(command - measured) > self.tracking + ROUNDING).any():
            self.broken["tracking"] += 1
        for order, (name, bound) in enumerate(zip(("velocity", "acceleration", "jerk"), self.bounds, strict=True), 1):
            if (np.abs(np.diff(self.sent[-order - 1 :], order, axis=0)) > bound * (1 + 1e-6) + ROUNDING).any():
                self.broken[name] += 1
        points = [arm.positions(q[None])[0][arm.links.index(wrist)] for arm, wrist, q in zip(
            self.arms, WRISTS, np.split(command, 2), strict=True)]  # fmt: skip
        if np.linalg.norm(points[0] - points[1]) < self.apart - ROUNDING:
            self.broken["wrists"] += 1


def part(seed: int) -> tuple[Counter, Counter, Counter, int]:
    """What was told, what became of it, what was broken, and how many commands were checked."""
    rng = np.random.default_rng(seed)
    p = Graph.load("agibot_g1", ()).parameters("agibot_g1_bridge")
    p |= {"speed_scale": float(rng.choice(SCALES)), "joints.velocity": [float(rng.choice(VELOCITIES))]}
    bridge, _ = make_bridge(p)
    checker, told, became = Checker(p), Counter(), Counter()
    robot, now_s, step, goal = np.array(READY), 0.0, 0, np.array(READY)
    way, until = "follows", 0
    while told.total() < PART:
        now_s += PERIOD_S
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
            goal = np.clip(goal + rng.normal(0, 0.03, ARMS), -1.6, 1.6)
            age_s = {"stale": 0.5, "from the future": -3.0}.get(kind, age_s)
            number = {"repeated": step - 1, "overtaken": step - 5}.get(kind, number)
            bridge.act(chunk, "episode", number, age_s, now_s)
        if rng.random() < 1e-3:
            {0: lambda: bridge.stop("asked"), 1: bridge.idle, 2: lambda: quietly(bridge.hand_over)}[
                int(rng.integers(3))
            ]()
        if bridge.state in (State.IDLE, State.STOPPED, State.YIELDED) and rng.random() < 0.05:
            way, until, robot = "follows", 30, np.clip(robot, checker.low, checker.high)
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


def quietly(does) -> None:
    try:
        does()
    except StartRefusedError:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
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
    args.results.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nresults  {args.results}")


if __name__ == "__main__":
    main()
