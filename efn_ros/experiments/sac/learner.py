"""Reinforcement learning on top of a supervised EFN: soft actor-critic in many simulated deployments at once.

The teacher of supervised training shows what the policy does at its best. What it cannot do either, such as trying
again after a missed grasp, is to be learned here from success.

1. The base alone fills a bank in each deployment. What it did, with a residual of zero, is where the critics start.
2. Rounds: episodes are run in deployments side by side, all with the same actor; then comes learning. In each episode
   the base walks a random prefix first, which is not learned from (PLD, arXiv:2511.00091).
3. From time to time the mean of the actor is measured in deployments of its own; the best so far is kept.

Every random draw comes from the settings' seed and from its place in the run, and results are taken in the order in
which they were requested. So on CPUs of one kind a run depends on its settings alone, bit for bit: not on the number
of processes, and not on how often it was interrupted, which costs what was done since the last state. `minutes` ends it
after a round, wherever that is. On a GPU it may differ by rounding.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.efn.actor import Efn
from efn_ros.efn.checkpoint import read_config
from efn_ros.experiments.sac.config import FinetuneConfig
from efn_ros.experiments.sac.critics import EfnCritics
from efn_ros.experiments.sac.replay import Replay, SymmetricReplay, Transition, tree_map
from efn_ros.experiments.sac.robot import Visit, Visited, base_rollouts_of, fill_bank, visit
from efn_ros.experiments.sac.sac import Sac, phase_in, start_nearly_deterministic
from efn_ros.experiments.sac.transitions import STRUCTURE, network_input
from efn_ros.training.state import check_settings, read_state, write_state

MEASURED_SEED, RUN_SEED = 19_000, 20_000  # of deployments that neither evaluation nor supervised training meets
NOT_DECIDING = ("directory", "episodes", "minutes", "processes")  # settings of how long a run is, and where


def finetune(config: FinetuneConfig, executor: Executor | None = None) -> Path:
    """Run, or go on with, a run.

    Args:
        config: Of the run.
        executor: Anything with the interface of concurrent.futures; None: processes of its own.

    Returns:
        The directory of the best checkpoint: `Efn`, its critics, facts.json.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The directory holds a run with other settings, or the checkpoint does not fit.
    """
    began = time.monotonic()
    read_config(config.checkpoint)
    directory = Path(config.directory)
    for name in ("banks", "base"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    file, settings = directory / "settings.json", _deciding(config)
    if file.exists():
        check_settings(directory, json.loads(file.read_text()), settings)
    file.write_text(json.dumps(settings, indent=1) + "\n")
    own = None if executor else ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn"))
    workers = executor or own
    try:
        deployments = [RUN_SEED + i for i in range(config.deployments)]
        measured = [MEASURED_SEED + i for i in range(config.measured)]
        missing = [d for d in (*deployments, *measured) if not base_rollouts_of(config, d).exists()]
        futures = [workers.submit(fill_bank, config, deployment) for deployment in missing]
        for future in tqdm(futures, desc="banks", disable=not futures):
            future.result()
        return Learner(config, deployments, workers, began).run()
    finally:
        if own:
            own.shutdown(cancel_futures=True)


class Learner:
    """Replay, soft actor-critic and where the run is; all of it in one directory, which appears as a whole."""

    def __init__(self, config: FinetuneConfig, deployments: Sequence[int], executor: Executor, began: float) -> None:
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self._config, self._deployments, self._executor, self._began = config, deployments, executor, began
        self._directory, device = Path(config.directory), "cuda" if torch.cuda.is_available() else "cpu"
        actor = Efn.from_pretrained(config.checkpoint).to(device)
        start_nearly_deterministic(actor.head, config.log_std)
        critics = EfnCritics(replace(actor.config, dropout=0.0), config.critics).to(device)
        use_memory = actor.config.use_memory
        supervised = Efn.from_pretrained(config.checkpoint).to(device)
        settings = replace(config.sac, bound=actor.config.bound, seed=config.seed)
        self._sac = Sac(
            settings, actor, critics, lambda _, recalled: recalled.mask.any(dim=1) | (not use_memory), supervised
        )
        example = self._base_rollouts(deployments[0]).rows
        self._online = Replay(example, config.capacity, config.seed)
        self._successes = Replay(example, config.capacity, config.seed + 1)
        self._replay = SymmetricReplay(self._online, self._successes)
        # What facts.json and the next process want to know.
        self._at = {"round": 0, "episodes": 0, "decisions": 0, "best_round": 0, "seconds": 0.0, "successes": {}}
        if not self._load():
            for deployment in deployments:
                self._take(self._base_rollouts(deployment))
            for _ in tqdm(range(config.warm_updates), desc="critics", disable=not config.warm_updates):
                self._sac.warm_start(self._batch())
            self._measure()
            self._save()

    def run(self) -> Path:
        """Run until episodes or minutes are over. Returns the directory of the best checkpoint."""
        config, at = self._config, self._at
        with (
            SummaryWriter(self._directory / "log", purge_step=at["round"] + 1) as log,
            tqdm(desc="episodes", total=config.episodes, initial=at["episodes"]) as progress,
        ):
            while at["episodes"] < config.episodes and self._seconds() < 60 * config.minutes:
                before = at["episodes"]
                for name, value in self._round().items():
                    log.add_scalar(name, value, at["round"])
                measures = at["round"] % config.measure_every == 0
                if measures:
                    log.add_scalar("measured", self._measure(), at["round"])
                if measures or at["round"] % config.save_every == 0:
                    self._save()
                progress.update(at["episodes"] - before)
                progress.set_postfix(measured=list(at["successes"].values())[-1])
        if not self._state().exists():
            self._save()
        if str(at["round"]) not in at["successes"]:  # not of the state: a longer run would not have measured here
            self._measure()
        return self._best()

    def _round(self) -> dict[str, float]:
        """Episodes of all processes with the same actor, then updates. Returns what TensorBoard shows."""
        config, at, sac = self._config, self._at, self._sac
        rng = np.random.default_rng([config.seed, at["round"]])
        sac.xi = config.xi + (1 - config.xi) * phase_in(at["round"], 0, config.phase_in)
        chosen = rng.choice(self._deployments, config.visits, replace=False).tolist()
        seeds = [(config.seed, at["round"], i) for i in range(len(chosen))]
        actor = self._actor()
        visited = self._visit([Visit(config, d, actor, s, sac.xi) for d, s in zip(chosen, seeds, strict=True)])
        new = sum(self._take(part) for part in visited)
        outcomes = [outcome for part in visited for outcome in part.outcomes]
        learn = sac.warm_start if at["round"] < config.critic_rounds else sac.update
        scalars_of = [learn(self._batch()) for _ in range(round(config.updates * new))]
        at["round"] += 1
        at["episodes"] += len(outcomes)
        at["decisions"] += new
        scalars = {"success": float(np.mean(outcomes)), "xi": sac.xi, "decisions": at["decisions"]}
        for name in sorted({name for values in scalars_of for name in values}):
            scalars[f"sac/{name}"] = float(torch.stack([v[name] for v in scalars_of if name in v]).mean())
        return scalars

    def _measure(self) -> float:
        """Share of success of the actor's mean, always in the same scenes; keeps it where none before was better."""
        at, measured = self._at, range(MEASURED_SEED, MEASURED_SEED + self._config.measured)
        actor = self._actor()
        visited = self._visit([Visit(self._config, d, actor, measures=True) for d in measured])
        success = round(float(np.mean([outcome for part in visited for outcome in part.outcomes])), 4)
        best = at["successes"].get(str(at["best_round"]), -1.0)
        at["successes"][str(at["round"])] = success
        if success > best:
            at["best_round"] = at["round"]
            self._keep(visited)
        return success

    @torch.no_grad()
    def _keep(self, visited: Sequence[Visited]) -> None:
        """Write a checkpoint that `LearnedResidual` loads, with its critics.

        disagreement: of the critics, median over the measured decisions that ended well (if none did, over all): a
        `disagreement_scale` of so much leaves half of the residual there.
        """
        target = self._best()
        partial = _emptied(target.with_suffix(".tmp"))
        self._sac.actor.save_pretrained(partial)
        self._sac.critics.save_pretrained(partial)
        rows = [(network_input(part.rows.observation), part.rows.action) for part in visited]
        disagreement = torch.cat([self._sac.disagreement(*row) for row in rows])
        well = np.concatenate([part.succeeded for part in visited])
        median = float(disagreement[torch.from_numpy(well | ~well.any()).to(disagreement.device)].median())
        facts = {**self._at, "minutes": round(self._seconds() / 60, 1), "updates": self._sac.updates}
        facts |= {"disagreement": median, "config": _deciding(self._config)}
        (partial / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        _moved(partial, target)

    def _actor(self) -> str:
        """Directory of the present actor, for whoever runs episodes with it."""
        self._sac.actor.save_pretrained(self._directory / "actor")
        return str(self._directory / "actor")

    def _visit(self, jobs: Sequence[Visit]) -> list[Visited]:
        return [future.result() for future in [self._executor.submit(visit, job) for job in jobs]]

    def _base_rollouts(self, deployment: int) -> Visited:
        arrays, _ = read_state(base_rollouts_of(self._config, deployment))
        rows = tree_map(lambda name, _: arrays[name], STRUCTURE)
        return Visited(tuple(arrays["outcomes"].tolist()), rows, arrays["succeeded"])

    def _take(self, visited: Visited) -> int:
        """Into the replay; how many decisions there were."""
        if visited.rows is not None:
            self._online.insert(visited.rows)
            self._successes.insert(tree_map(lambda _, x: x[visited.succeeded], visited.rows))
        return len(visited.succeeded)

    def _batch(self) -> Transition:
        rows = self._replay.sample(self._config.batch_size)
        before, after = network_input(rows.observation), network_input(rows.next_observation)
        return replace(rows, observation=before, next_observation=after)

    def _state(self) -> Path:
        return self._directory / f"state_{self._at['round']}"

    def _best(self) -> Path:
        return self._directory / f"best_{self._at['best_round']}"

    def _seconds(self) -> float:
        return self._at["seconds"] + time.monotonic() - self._began

    def _save(self) -> None:
        """Everything, in a directory that appears as a whole; what it makes superfluous is removed."""
        at, target = self._at, self._state()
        partial = _emptied(target.with_suffix(".tmp"))
        self._sac.save(partial / "sac.safetensors")
        self._online.save(partial / "online.safetensors")
        self._successes.save(partial / "successes.safetensors")
        write_state(partial / "at.safetensors", {}, {**at, "seconds": self._seconds()})
        _moved(partial, target)
        for old in (*self._directory.glob("state_*"), *self._directory.glob("best_*")):
            if old not in (target, self._best()):
                shutil.rmtree(old)

    def _load(self) -> bool:
        """Go on where the last whole state was left; False where there is none."""
        states = [path for path in self._directory.glob("state_*") if not path.suffix]
        if not states:
            return False
        state = max(states, key=lambda path: int(path.name.removeprefix("state_")))
        self._sac.load(state / "sac.safetensors")
        self._online.load(state / "online.safetensors")
        self._successes.load(state / "successes.safetensors")
        self._at = read_state(state / "at.safetensors")[1]
        return True


def _deciding(config: FinetuneConfig) -> dict[str, Any]:
    """The settings that decide a run, as JSON has them."""
    settings = json.loads(json.dumps(asdict(config)))
    return {name: value for name, value in settings.items() if name not in NOT_DECIDING}


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _moved(partial: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
