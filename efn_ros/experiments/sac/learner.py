# SPDX-License-Identifier: MIT
"""Reinforcement learning on top of a supervised EFN: soft actor-critic in many simulated deployments at once.

The teacher of supervised training shows the policy at its best. What the policy cannot do at its best either, such as
a second attempt after a missed grasp, can only be learned from success.

1. The base alone fills a bank in each deployment. Its transitions, with a residual of zero, are the first that the
   critics learn from.
2. In each round the same actor runs episodes in several deployments; then actor and critics are updated. Each episode
   begins with a random prefix of the base, which is not learned from (PLD, arXiv:2511.00091).
3. At intervals the mean of the actor is validated in deployments of its own; the best checkpoint is saved.

Every random choice follows from the seed and from its place in the run, and results are used in the order of their
jobs. So on CPUs of one kind a run depends on its settings alone, bit for bit: neither the number of processes nor
interruptions change it. An interruption costs the work since the last state. `minutes` ends a run after a round, at a
point that depends on the machine. On a GPU results may differ by rounding.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
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
from efn_ros.experiments.sac.policy import phase_in, start_nearly_deterministic
from efn_ros.experiments.sac.replay import Replay, SymmetricReplay, Transition, tree_map
from efn_ros.experiments.sac.robot import EpisodeBatch, EpisodeJob, base_rollouts_file, fill_bank, run_job
from efn_ros.experiments.sac.sac import Sac
from efn_ros.experiments.sac.transitions import network_input, read_transition
from efn_ros.runtime.factory import make_policy
from efn_ros.runtime.graph import Graph
from efn_ros.training.state import check_settings, read_state, write_state

# First seeds of deployments; neither evaluation nor supervised training uses those from here on.
VALIDATION_SEED, TRAINING_SEED = 19_000, 20_000
NOT_OF_THE_RESULT = ("directory", "episodes", "minutes", "processes")  # settings of where and how long a run is


def finetune(config: FinetuneConfig, executor: Executor | None = None) -> Path:
    """Start or continue a run.

    Args:
        config: Of the run.
        executor: Runs the episodes; None: processes of its own.

    Returns:
        The directory of the best checkpoint: `Efn`, its critics and facts.json.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: The directory holds a run with other settings, or the checkpoint does not fit.
    """
    began = time.monotonic()
    _check_graph(config)
    directory = Path(config.directory)
    for name in ("banks", "base"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    file, settings = directory / "settings.json", _settings(config)
    if file.exists():
        check_settings(directory, json.loads(file.read_text()), settings)
    file.write_text(json.dumps(settings, indent=1) + "\n")
    workers = executor or ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        deployments = [TRAINING_SEED + i for i in range(config.deployments)]
        validation = [VALIDATION_SEED + i for i in range(config.validation_deployments)]
        missing = [d for d in (*deployments, *validation) if not base_rollouts_file(config, d).exists()]
        futures = [workers.submit(fill_bank, config, deployment) for deployment in missing]
        for future in tqdm(futures, desc="banks", disable=not futures):
            future.result()
        return Learner(config, deployments, workers, began).run()
    finally:
        if executor is None:
            workers.shutdown(cancel_futures=True)


def _check_graph(config: FinetuneConfig) -> None:
    """Refuse a network whose chunks are not those of the graph's policy, before hours of episodes."""
    network = read_config(config.checkpoint)
    spec = make_policy(Graph.load(config.graph, config.overlays).parameters("vla_policy")).spec
    own, given = (network.horizon, network.action_size), (spec.horizon, spec.action_size)
    if own != given:
        raise ValueError(
            f"the network of {config.checkpoint} corrects chunks (H, A) = {own}, the policy of graph {config.graph} "
            f"gives {given}; name the graph of the network with --graph"
        )


@dataclass
class Progress:
    """How far a run has come."""

    round: int = 0  # rounds that ended
    episodes: int = 0  # of training
    decisions: int = 0  # of training
    best_round: int = 0  # round whose actor validated best
    seconds: float = 0.0  # wall time of all sessions
    successes: dict[str, float] = field(default_factory=dict)  # round -> share of success in validation


class Learner:
    """Replay, soft actor-critic and progress of a run, saved together in one directory."""

    def __init__(self, config: FinetuneConfig, deployments: Sequence[int], executor: Executor, began: float) -> None:
        """Restore the last state of the run, or start it: train the critics on the base's transitions and validate.

        Args:
            config: Of the run.
            deployments: Seeds of those to train in; their banks are filled.
            executor: Runs the episodes.
            began: `time.monotonic()` at the start of this call.
        """
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self._config, self._deployments, self._executor, self._began = config, deployments, executor, began
        self._directory, device = Path(config.directory), "cuda" if torch.cuda.is_available() else "cpu"
        self._actor = Efn.from_pretrained(config.checkpoint).to(device)
        start_nearly_deterministic(self._actor.head, config.log_std)
        self._critics = EfnCritics(replace(self._actor.config, dropout=0.0), config.critics).to(device)
        use_memory = self._actor.config.use_memory
        self._sac = Sac(
            replace(config.sac, bound=self._actor.config.bound, seed=config.seed),
            self._actor,
            self._critics,
            active=lambda _, recalled: recalled.mask.any(dim=1) | (not use_memory),
            proximal_actor=Efn.from_pretrained(config.checkpoint).to(device),
        )
        example = self._base_rollouts(deployments[0]).rows
        self._online = Replay(example, config.capacity, config.seed)
        self._successes = Replay(example, config.capacity, config.seed + 1)
        self._replay = SymmetricReplay(self._online, self._successes)
        self._progress = Progress()
        if not self._load():
            for deployment in deployments:
                self._insert(self._base_rollouts(deployment))
            for _ in tqdm(range(config.warm_updates), desc="critics", disable=not config.warm_updates):
                self._sac.warm_start(self._sample())
            self._validate()
            self._save()

    def run(self) -> Path:
        """Run rounds until the episodes or minutes are over, and return the directory of the best checkpoint."""
        config, progress = self._config, self._progress
        with (
            SummaryWriter(self._directory / "log", purge_step=progress.round + 1) as log,
            tqdm(desc="episodes", total=config.episodes, initial=progress.episodes) as bar,
        ):
            while progress.episodes < config.episodes and self._seconds() < 60 * config.minutes:
                before = progress.episodes
                for name, value in self._round().items():
                    log.add_scalar(name, value, progress.round)
                validate = progress.round % config.validate_every == 0
                if validate:
                    log.add_scalar("validation", self._validate(), progress.round)
                if validate or progress.round % config.save_every == 0:
                    self._save()
                bar.update(progress.episodes - before)
                bar.set_postfix(validation=list(progress.successes.values())[-1])
        if not self._state_directory().exists():
            self._save()
        if str(progress.round) not in progress.successes:  # after the state: a longer run would not validate here
            self._validate()
        return self._best_directory()

    def _round(self) -> dict[str, float]:
        """Run episodes in all processes with the same actor, then update; return what TensorBoard shows."""
        config, progress, sac = self._config, self._progress, self._sac
        rng = np.random.default_rng([config.seed, progress.round])
        sac.xi = config.xi + (1 - config.xi) * phase_in(progress.round, 0, config.phase_in)
        chosen = rng.choice(self._deployments, config.round_deployments, replace=False).tolist()
        seeds = [(config.seed, progress.round, i) for i in range(len(chosen))]
        actor = self._save_actor()
        batches = self._run_jobs([EpisodeJob(config, d, actor, s, sac.xi) for d, s in zip(chosen, seeds, strict=True)])
        new = sum(self._insert(batch) for batch in batches)
        outcomes = [outcome for batch in batches for outcome in batch.outcomes]
        learn = sac.warm_start if progress.round < config.critic_rounds else sac.update
        updates = [learn(self._sample()) for _ in range(round(config.updates * new))]
        progress.round += 1
        progress.episodes += len(outcomes)
        progress.decisions += new
        scalars = {"success": float(np.mean(outcomes)), "xi": sac.xi, "decisions": progress.decisions}
        for name in sorted({name for values in updates for name in values}):
            scalars[f"sac/{name}"] = float(torch.stack([v[name] for v in updates if name in v]).mean())
        return scalars

    def _validate(self) -> float:
        """Share of success of the actor's mean, always in the same scenes; saves the actor if it is the best so far."""
        config, progress = self._config, self._progress
        actor = self._save_actor()
        seeds = range(VALIDATION_SEED, VALIDATION_SEED + config.validation_deployments)
        batches = self._run_jobs([EpisodeJob(config, seed, actor, validate=True) for seed in seeds])
        success = round(float(np.mean([outcome for batch in batches for outcome in batch.outcomes])), 4)
        best = progress.successes.get(str(progress.best_round), -1.0)
        progress.successes[str(progress.round)] = success
        if success > best:
            progress.best_round = progress.round
            self._save_best(batches)
        return success

    @torch.no_grad()
    def _save_best(self, batches: Sequence[EpisodeBatch]) -> None:
        """Write a checkpoint that `LearnedResidual` loads, with its critics.

        `disagreement` in facts.json is the median disagreement of the critics over the validated decisions of
        successful episodes (of all, if none succeeded). A `disagreement_scale` of that size halves the residual there.
        """
        rows = [(network_input(rows.observation), rows.action) for batch in batches if (rows := batch.rows)]
        disagreement = torch.cat([self._sac.disagreement(*row) for row in rows])
        succeeded = np.concatenate([batch.succeeded for batch in batches])
        median = float(disagreement[torch.from_numpy(succeeded | ~succeeded.any()).to(disagreement.device)].median())
        facts = {**asdict(self._progress), "minutes": round(self._seconds() / 60, 1), "updates": self._sac.updates}
        facts |= {"disagreement": median, "config": _settings(self._config)}
        with _new_directory(self._best_directory()) as directory:
            self._actor.save_pretrained(directory)
            self._critics.save_pretrained(directory)
            (directory / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")

    def _save_actor(self) -> str:
        """Write the present actor for the processes, and return its directory."""
        self._actor.save_pretrained(self._directory / "actor")
        return str(self._directory / "actor")

    def _run_jobs(self, jobs: Sequence[EpisodeJob]) -> list[EpisodeBatch]:
        return [future.result() for future in [self._executor.submit(run_job, job) for job in jobs]]

    def _base_rollouts(self, deployment: int) -> EpisodeBatch:
        arrays, _ = read_state(base_rollouts_file(self._config, deployment))
        return EpisodeBatch(tuple(arrays["outcomes"].tolist()), read_transition(arrays), arrays["succeeded"])

    def _insert(self, batch: EpisodeBatch) -> int:
        """Insert a batch into the replay, and return its number of decisions."""
        if batch.rows is not None:
            self._online.insert(batch.rows)
            self._successes.insert(tree_map(lambda _, x: x[batch.succeeded], batch.rows))
        return len(batch.succeeded)

    def _sample(self) -> Transition:
        rows = self._replay.sample(self._config.batch_size)
        before, after = network_input(rows.observation), network_input(rows.next_observation)
        return replace(rows, observation=before, next_observation=after)

    def _state_directory(self) -> Path:
        return self._directory / f"state_{self._progress.round}"

    def _best_directory(self) -> Path:
        return self._directory / f"best_{self._progress.best_round}"

    def _seconds(self) -> float:
        return self._progress.seconds + time.monotonic() - self._began

    def _save(self) -> None:
        """Write the whole state to a directory that appears at once, and remove older ones."""
        with _new_directory(self._state_directory()) as directory:
            self._sac.save(directory / "sac.safetensors")
            self._online.save(directory / "online.safetensors")
            self._successes.save(directory / "successes.safetensors")
            write_state(directory / "at.safetensors", {}, {**asdict(self._progress), "seconds": self._seconds()})
        for old in (*self._directory.glob("state_*"), *self._directory.glob("best_*")):
            if old not in (self._state_directory(), self._best_directory()):
                shutil.rmtree(old)

    def _load(self) -> bool:
        """Restore the last whole state; False where there is none."""
        states = [path for path in self._directory.glob("state_*") if not path.suffix]
        if not states:
            return False
        state = max(states, key=lambda path: int(path.name.removeprefix("state_")))
        self._sac.load(state / "sac.safetensors")
        self._online.load(state / "online.safetensors")
        self._successes.load(state / "successes.safetensors")
        self._progress = Progress(**read_state(state / "at.safetensors")[1])
        return True


def _settings(config: FinetuneConfig) -> dict[str, Any]:
    """The settings that the result of a run depends on, as JSON returns them."""
    settings = json.loads(json.dumps(asdict(config)))
    return {name: value for name, value in settings.items() if name not in NOT_OF_THE_RESULT}


@contextlib.contextmanager
def _new_directory(target: Path) -> Iterator[Path]:
    """An empty directory that takes the place of `target` at the end."""
    partial = target.with_suffix(".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
