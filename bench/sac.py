# SPDX-License-Identifier: MIT
"""Updates a second and returns on Pendulum-v1: soft actor-critic here and in Stable-Baselines3, one thread.

Run as `./efn shell python bench/sac.py`. Prints two tables, writes results/sac.json. Both have the same networks,
batches and hyperparameters; an update includes sampling its batch. Returns are those of the mean action, over the same
first states.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import gymnasium
import numpy as np
import torch

from efn_ros.experiments.sac.config import SacConfig
from efn_ros.experiments.sac.replay import Replay, Transition
from efn_ros.experiments.sac.sac import Sac
from efn_ros.report import provenance, tables

sys.path.append(str(Path(__file__).parents[1] / "test" / "support"))
from mlp import MlpActor, MlpCritics  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "sac.json"
TASK, SIZES, BOUND = "Pendulum-v1", (3, 1), 2.0  # sizes of observation and action; the largest action
OURS, OTHER = "efn_ros", "stable_baselines3"
CASES = ((64, 64, 2), (256, 64, 2), (256, 256, 2), (256, 256, 5))  # width of two layers, batch, critics
ROUNDS, UPDATES = 30, 20
LEARNING = {"steps": 5000, "random_steps": 100, "width": 64, "batch": 128, "learning_rate": 1e-3, "gamma": 0.98}
SEEDS = range(3)
EPISODES = range(1000, 1020)  # by seed


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]  # above 0: other processes run as well
    speeds = [measure(*case) for case in CASES]
    rows = [
        [f"2 x {s['width']}, batch {s['batch']}, {s['critics']} critics"]
        + [f"{s['updates_per_s'][name]:.0f}" for name in (OURS, OTHER)]
        + [f"{s['ratio']:.2f}"]
        for s in speeds
    ]
    print(tables.markdown(["updates a second", OURS, OTHER, "ratio"], rows))
    returns = {name: [evaluate(run(seed)) for seed in SEEDS] for name, run in ((OURS, learn), (OTHER, learn_other))}
    returns["untrained"] = [evaluate(learn(seed, steps=0)) for seed in SEEDS]
    rows = [[name, *(f"{r:.0f}" for r in found), f"{np.mean(found):.0f}"] for name, found in returns.items()]
    print("\n" + tables.markdown([f"return on {TASK}", *(f"seed {s}" for s in SEEDS), "mean"], rows))
    here = provenance.here()
    here["versions"] |= {package: metadata.version(package) for package in (OTHER, "gymnasium")}
    here["machine"]["load"] = load
    learning = {"task": TASK, **LEARNING, "n": len(SEEDS), "episodes": len(EPISODES), "returns": returns}
    args.results.write_text(json.dumps({**here, "threads": 1, "speeds": speeds, "learning": learning}, indent=1) + "\n")
    print(f"\nresults  {args.results}")


# Speed


def measure(width: int, batch: int, critics: int) -> dict[str, object]:
    """Return updates a second of both, which take turns, so that other load affects both.

    Args:
        width: Of two hidden layers.
        batch: Rows of an update.
        critics: How many.
    """
    rng = np.random.default_rng(0)
    rows = 10 * batch
    draw = lambda size: rng.standard_normal((rows, size), dtype=np.float32)  # noqa: E731
    data = Transition((draw(SIZES[0]),), draw(SIZES[1]), draw(1)[:, 0], (draw(SIZES[0]),), np.zeros(rows, bool))
    sac, other, replay = make_sac(0, width, critics), make_other(0, width, batch, critics), Replay(data, rows)
    replay.insert(data)
    for i in range(rows):
        observation, following = data.observation[0][i], data.next_observation[0][i]
        other.replay_buffer.add(observation, following, data.action[i], data.reward[i], np.zeros(1), [{}])
    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: [sac.update(replay.sample(batch)) for _ in range(UPDATES)],
        OTHER: lambda: other.train(UPDATES, batch),
    }
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - began) / UPDATES)
    return {
        "width": width,
        "batch": batch,
        "critics": critics,
        "n": ROUNDS * UPDATES,
        "updates_per_s": {name: 1 / float(np.median(found)) for name, found in times.items()},
        "ratio": float(np.median(np.divide(times[OTHER], times[OURS]))),
    }


def make_sac(seed: int, width: int, critics: int = 2) -> Sac:
    """Return the learner of this package."""
    torch.manual_seed(seed)
    config = SacConfig(
        bound=(BOUND,),
        gamma=LEARNING["gamma"],
        learning_rate=LEARNING["learning_rate"],
        target_entropy=-1.0,  # for each dimension, as Stable-Baselines3 has it
        subset=critics,
        seed=seed,
    )
    hidden = (width, width)
    return Sac(config, MlpActor(SIZES[0], SIZES[1:], hidden), MlpCritics(sum(SIZES), hidden, critics))


def make_other(seed: int, width: int, batch: int, critics: int = 2):  # noqa: ANN201 - its type is another package's
    """Return the learner of Stable-Baselines3."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    model = SAC(
        "MlpPolicy",
        TASK,
        learning_rate=LEARNING["learning_rate"],
        gamma=LEARNING["gamma"],
        buffer_size=max(LEARNING["steps"], 10 * batch),
        learning_starts=LEARNING["random_steps"],
        batch_size=batch,
        policy_kwargs={"net_arch": [width, width], "n_critics": critics},
        seed=seed,
        device="cpu",
    )
    model.set_logger(Logger(None, []))
    return model


# Learning


def learn(seed: int, steps: int = LEARNING["steps"]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the policy after so many steps: first random ones, then each followed by one update."""
    rng, batch = np.random.default_rng(seed), LEARNING["batch"]
    sac, env, replay = make_sac(seed, LEARNING["width"]), gymnasium.make(TASK), None
    state, _ = env.reset(seed=seed)
    for step in range(steps):
        if step < LEARNING["random_steps"]:
            action = rng.uniform(-BOUND, BOUND, SIZES[1:]).astype(np.float32)
        else:
            action = sac.act((state[None],))[0].numpy()
        following, reward, ended, timed_out, _ = env.step(action)
        row = Transition((state[None],), action[None], np.float32([reward]), (following[None],), np.array([ended]))
        if replay is None:
            replay = Replay(row, steps, seed)
        replay.insert(row)
        state = env.reset()[0] if ended or timed_out else following
        if step >= LEARNING["random_steps"]:
            sac.update(replay.sample(batch))
    return lambda state: sac.act((state[None],), deterministic=True)[0].numpy()


def learn_other(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the policy of Stable-Baselines3 after as many steps."""
    model = make_other(seed, LEARNING["width"], LEARNING["batch"])
    model.learn(LEARNING["steps"])
    return lambda state: model.predict(state, deterministic=True)[0]


def evaluate(policy: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the mean return of the episodes."""
    env, total = gymnasium.make(TASK), 0.0
    for seed in EPISODES:
        (state, _), over = env.reset(seed=seed), False
        while not over:
            state, reward, ended, timed_out, _ = env.step(policy(state))
            total, over = total + float(reward), ended or timed_out
    return total / len(EPISODES)


if __name__ == "__main__":
    main()
