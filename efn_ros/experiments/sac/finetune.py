"""Reinforcement learning on top of the taught EFN: soft actor-critic in many simulated deployments at once.

The teacher of `lessons` shows what the policy does at its best. What it cannot do either, such as trying again after a
missed grasp, is learnt here from success.

1. The base alone fills a bank in each deployment. What it did, with a residual of zero, is where the critics start.
2. Rounds: deployments are lived in side by side, all with the same actor; then comes learning. In each episode the base
   walks a random prefix first, which is not learnt from (PLD, arXiv:2511.00091).
3. From time to time the mean of the actor is measured in deployments of its own; the best so far is kept.

All that is drawn comes from the settings' seed and from where in the run it is drawn, and what was lived is taken in
the order in which it was asked for. So on CPUs of one kind a run depends on its settings alone, bit for bit: not on the
number of processes, and not on how often it was killed, which costs what was done since the last state. `minutes` ends
it after a round, wherever that is. On a GPU it may differ by rounding.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.bank import BankReader, StoredRollout
from efn_ros.bank.store.snapshot import FirstRollouts
from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import Present, Recalled, present_of, recalled_of
from efn_ros.efn.checkpoint import require_action_space
from efn_ros.experiments.sac import replay
from efn_ros.experiments.sac.critics import EfnCritics
from efn_ros.experiments.sac.replay import Replay, SymmetricReplay, Transition, Tree, leaves, tree_map
from efn_ros.experiments.sac.rewards import Reference, Shaping, anti_idling, semantic_match, sparse
from efn_ros.experiments.sac.sac import Sac, SacConfig, phase_in, start_nearly_deterministic
from efn_ros.experiments.sac.sinkhorn import sinkhorn_similarity
from efn_ros.features.keys import mean_latent, unit
from efn_ros.retrieval import RecallConfig, Retriever
from efn_ros.runtime.factory import make_recall, make_writer
from efn_ros.runtime.graph import Graph
from efn_ros.training.collection import simulated_robot
from efn_ros.types import Correction, Mode, Observation, Outcome, PolicyStep, Recall, Rollout, RolloutStep, StepContext
from efn_ros.worlds.deployment import Deployment
from efn_ros.worlds.metaworld import TASKS
from efn_ros.worlds.stepper import Stepper

# Deployments that neither evaluation (below 10 000) nor lessons (from there on) meet, and scenes likewise.
MEASURED_SEED, LIVED_SEED = 19_000, 20_000
REMEMBERED_SCENE, MEASURED_SCENE, LIVED_SCENE = 10_000_000, 20_000_000, 30_000_000
SCENES = 100  # for the bank of one deployment, and as many to measure in
CUES = RecallConfig()  # their weights in the fused similarity of rewards
REWARDS, SIMILARITIES = ("sparse", "semantic", "anti_idling"), ("fused", "sinkhorn")
NO_REFERENCE = -1


@dataclass(frozen=True)
class FinetuneConfig:
    """How a run goes. Raises ValueError, naming the field, for what cannot be.

    directory: of the run. checkpoint: the taught EFN. episodes, minutes: whichever comes first ends the run.
    deployments: that are lived in; in each the base fills a bank with `remembered` rollouts of `tasks` tasks. volumes:
    rollouts of it that an episode may recall, drawn. nearest, context: recalled steps, as it was taught with. visits:
    deployments a round, each with `visit_episodes`. prefix: longest walk of the base before an episode, share of its
    horizon. reward: "sparse", success with a potential between; "semantic", (8)(9); "anti_idling", (14)-(16); success
    is paid in each. similarity: "fused", (38), or "sinkhorn", (55). critics: how many. sac: its bound is the
    checkpoint's, its anchor what was taught; with `conservative` above 0 the critics' start is that of Cal-QL. log_std:
    of the actor at its start. xi: share of the bound at the start, raised to 1 over `phase_in` rounds. warm_updates: of
    the critics, before the first round; in `critic_rounds` more it is they alone that learn. updates: for each new
    decision. capacity: decisions kept, of all and of successes. measured, measured_episodes: deployments, and episodes
    in each, every `measure_every` rounds. save_every: rounds from state to state. processes: that live; threads: of
    learning.
    """

    directory: str
    checkpoint: str
    robot: str = "libero_sim"
    episodes: int = 10_000
    minutes: float = math.inf
    seed: int = 0
    deployments: int = 32
    tasks: int = 4
    remembered: int = 8
    volumes: tuple[int, ...] = (1, 2, 4, 8)
    nearest: int = 8
    context: int = 16
    visits: int = 8
    visit_episodes: int = 2
    prefix: float = 0.4
    reward: str = "sparse"
    similarity: str = "fused"
    shaping: Shaping = Shaping(success=1.0)
    critics: int = 2
    sac: SacConfig = SacConfig(
        bound=(0.0,), actor_learning_rate=3e-5, temperature=1e-4, actor_every=2, clip=1.0, anchor=0.1
    )
    log_std: float = -3.0
    xi: float = 0.5
    phase_in: int = 20
    warm_updates: int = 500
    critic_rounds: int = 10
    updates: float = 0.5
    batch: int = 32
    capacity: int = 20_000
    measured: int = 6
    measured_episodes: int = 6
    measure_every: int = 20
    save_every: int = 5
    processes: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("reward", REWARDS), ("similarity", SIMILARITIES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; there are {', '.join(map(repr, allowed))}")
        if not 1 <= self.tasks <= len(TASKS):
            raise ValueError(f"tasks is {self.tasks}; it must be from 1 to {len(TASKS)}")
        if self.visits > self.deployments:
            raise ValueError(f"visits is {self.visits}, but there are {self.deployments} deployments; raise those")
        for name in ("remembered", "measured_episodes"):
            if not 1 <= getattr(self, name) <= SCENES:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to {SCENES}")
        for name in ("prefix", "xi"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")


# What is lived, in processes that may be anywhere


@dataclass(frozen=True)
class Seen:
    """What the actor took at a decision, each (B, ...): as the network takes it, but for the sketch, which stays int8
    with `scale` float32 (B, T). Recalled steps are filled up to `nearest` + `context`."""

    present: Present
    scale: np.ndarray
    recalled: Recalled


SEEN = Seen(Present(*[""] * 4), "", Recalled(*[""] * len(fields(Recalled))))
ROWS = Transition(SEEN, "", "", SEEN, "", "", "")  # the structure of what is replayed


@dataclass(frozen=True)
class Visit:
    """Some episodes in one deployment, corrected by the EFN of the directory `actor`. seed: of all that is drawn. xi:
    share of the bound. measures: the actor's mean, from the first decision on, in scenes that are always the same."""

    config: FinetuneConfig
    deployment: int
    actor: str
    seed: tuple[int, ...] = ()
    xi: float = 1.0
    measures: bool = False


@dataclass(frozen=True)
class Lived:
    """outcomes: success of each episode. rows: of all that were not over within their prefix, one after the other; None
    where all were. succeeded: bool (B,), of the row's episode."""

    outcomes: tuple[bool, ...]
    rows: Transition | None
    succeeded: np.ndarray


@dataclass(frozen=True)
class Episode:
    """T decisions after the prefix. observations, steps, seen: T + 1, the last one is where it ended. residuals:
    float32 (T, H, A), as they were executed. length: control steps, the prefix counted. remembered: for recall.
    """

    observations: Sequence[Observation]
    steps: Sequence[PolicyStep]
    seen: Sequence[Seen]
    residuals: np.ndarray
    success: bool
    length: int
    remembered: Sequence[StoredRollout]


class Robot:
    """A simulated robot in one deployment, corrected by the EFN of a directory."""

    def __init__(self, config: FinetuneConfig, deployment: int, checkpoint: str) -> None:
        graph = Graph.load(config.robot)
        self._config, self._deployment = config, deployment
        self._writer, recall = graph.parameters("bank_writer"), make_recall(graph.parameters("experience_retrieval"))
        self._execute_steps = graph.parameters("libero_bridge")["execute_steps"]
        self._inference, self._world = simulated_robot(config.robot)
        self._world.deployment = Deployment.sample(deployment)
        self._actor = Efn.from_pretrained(checkpoint)
        sizes = {"rollouts_n": config.remembered, "k": config.nearest, "context": config.context}
        self._recall = replace(recall, codes=self._actor.codes, **sizes)
        self.likeness = Likeness(config.similarity, np.array(self._actor.config.proprio_std, np.float32))
        tasks = np.random.default_rng([deployment, 1]).permutation(list(TASKS))[: config.tasks]
        self.tasks = [str(task) for task in tasks]

    def remember(self, bank: Path) -> Iterator[Episode]:
        """The base alone, task after task, into the bank; each recalls what was remembered before it."""
        with make_writer(self._writer, bank) as writer:
            for i in range(self._config.remembered):
                scene = REMEMBERED_SCENE + SCENES * self._deployment + i
                told = (f"remembered-{i}", self.tasks[i % len(self.tasks)], scene)
                episode = self.live(*told, BankReader(bank), lambda seen: np.zeros_like(seen.present.base))
                writer.append(_rollout(episode, self._writer["robot"], i))
                yield episode

    def live(
        self,
        name: str,
        task: str,
        scene: int,
        memory: BankReader | FirstRollouts,
        act: Callable[[Seen], np.ndarray],
        prefix: float = 0.0,
    ) -> Episode:
        """One episode. act: residual (1, H, A). prefix: share of the horizon that the base walks alone."""
        world, low, high = self._world, self._world.spec.low, self._world.spec.high
        stepper = Stepper(world, task, scene, execute_steps=self._execute_steps)
        retriever = Retriever(memory, self._recall)
        observations, steps, seen, residuals = [], [], [], []
        decision = 0

        def look() -> tuple[Observation, PolicyStep]:
            stamp_ns = round(stepper.control_step / world.spec.rate_hz * 1e9)
            context = StepContext(name, decision, stamp_ns, task, world.spec.tasks[task], scene)
            observation = Observation(context, *stepper.observe())
            return observation, self._inference(observation)

        while stepper.control_step < prefix * stepper.horizon and not stepper.done:
            stepper.execute(np.clip(look()[1].base, low, high))
            decision += 1
        while True:
            observation, step = look()
            observations.append(observation)
            steps.append(step)
            seen.append(self._seen(step, retriever.recall(step)))
            if stepper.done:
                break
            executed = np.clip(step.base + act(seen[-1])[0], low, high)
            residuals.append(executed - step.base)
            stepper.execute(executed)
            decision += 1
        walked = np.array(residuals, np.float32).reshape(-1, *step.base.shape)
        ended = (stepper.success, stepper.control_step, memory.snapshot().rollouts)
        return Episode(observations, steps, seen, walked, *ended)

    @torch.inference_mode()
    def residual(self, seen: Seen, xi: float, rng: np.random.Generator | None) -> np.ndarray:
        """(1, H, A), within its share of the bound: drawn, or without `rng` that of the actor's mean."""
        present, recalled = tree_map(lambda _, x: torch.from_numpy(x), observation_of(seen))
        mean, log_std = self._actor(present, recalled)
        if rng is not None:
            mean = mean + log_std.exp() * torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        return np.float32(xi) * self._actor.bounded(mean, recalled).numpy()

    def _seen(self, step: PolicyStep, recall: Recall) -> Seen:
        read = present_of(step), recalled_of(recall.steps, self._actor.config)
        present, recalled = tree_map(lambda _, x: x.numpy(), read)
        missing = self._config.nearest + self._config.context - len(recall.steps)
        filled = tree_map(lambda _, x: np.pad(x, [(0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)]), recalled)
        return Seen(replace(present, sketch=step.sketch.q[None]), step.sketch.scale[None], filled)


def remember(config: FinetuneConfig, deployment: int) -> None:
    """Fill the bank of one deployment and write what its rollouts are to the learner; that file comes last."""
    torch.set_num_threads(1)
    bank = _bank(config, deployment)
    shutil.rmtree(bank, ignore_errors=True)  # what a run left that was killed in between
    robot = Robot(config, deployment, config.checkpoint)
    lived = _lived(config, robot.likeness, list(robot.remember(bank)))
    arrays = leaves(lived.rows) | {"outcomes": np.array(lived.outcomes), "succeeded": lived.succeeded}
    replay.write(_base(config, deployment), arrays, {})


def visit(job: Visit) -> Lived:
    """Live through the episodes of a visit; the bank of its deployment must be there."""
    torch.set_num_threads(1)
    config, rng = job.config, np.random.default_rng([job.deployment, *job.seed])
    robot, reader = Robot(config, job.deployment, job.actor), BankReader(_bank(config, job.deployment))
    episodes = []
    for i in range(config.measured_episodes if job.measures else config.visit_episodes):
        if job.measures:
            told = (robot.tasks[i % len(robot.tasks)], MEASURED_SCENE + SCENES * job.deployment + i, reader)
            episode = robot.live(f"measured-{i}", *told, lambda seen: robot.residual(seen, job.xi, None))
        else:
            memory = FirstRollouts(reader, int(rng.choice(config.volumes)))
            told = (str(rng.choice(robot.tasks)), LIVED_SCENE + int(rng.integers(LIVED_SCENE)), memory)
            prefix = rng.uniform(0, config.prefix)
            episode = robot.live(f"lived-{i}", *told, lambda seen: robot.residual(seen, job.xi, rng), prefix)
        episodes.append(episode)
    return _lived(config, robot.likeness, episodes)


def observation_of(seen: Seen) -> tuple[Present, Recalled]:
    """What the network takes, float32."""
    sketch = seen.present.sketch * seen.scale[..., None]
    return replace(seen.present, sketch=sketch), seen.recalled


def transitions(config: FinetuneConfig, likeness: Likeness, episode: Episode) -> Transition:
    """The T decisions of an episode. It is done where the task is; where time ran out, what follows still counts."""
    reward, reference = paid(config, likeness, episode)
    done = np.zeros(len(reward), bool)
    done[-1] = episode.success
    to_go = reward.copy()
    for t in reversed(range(len(reward) - 1)):
        to_go[t] += config.sac.gamma * to_go[t + 1]
    seen = _joined(episode.seen)
    before, after = (tree_map(lambda _, x, part=part: x[part], seen) for part in (slice(None, -1), slice(1, None)))
    return Transition(before, episode.residuals, reward, after, done, reference, to_go)


def paid(config: FinetuneConfig, likeness: Likeness, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """Rewards float32 (T,), and which remembered rollout was followed and its step, int64 (T, 2).

    What is followed is chosen at the first decision, the likest step of all successes of the same task, and then
    advances with the episode. Where memory has none (-1) success alone is paid.
    """
    count, shaping, instruction = len(episode.residuals), config.shaping, episode.observations[0].context.instruction
    success = np.zeros(count)
    success[-1] = episode.success
    signs, first = likeness.of(episode.steps), {}
    for i, rollout in enumerate(episode.remembered):
        if rollout.record.outcome == Outcome.SUCCESS and rollout.record.instruction == instruction:
            first[i] = likeness(signs[:1], likeness.stored(rollout))
    if not first:
        return (shaping.success * success).astype(np.float32), np.full((count, 2), NO_REFERENCE)
    index = max(first, key=lambda i: first[i].max())
    followed = likeness.stored(episode.remembered[index])
    reference = Reference(len(first[index]), int(first[index].argmax()))
    at, to = (np.array([step(t) for t in range(count)]) for step in (reference.step, reference.successor))
    if config.reward == "sparse":
        potential = np.array([reference.potential(row) for row in likeness(signs[:, None], followed[None])])
        after = np.where(success > 0, 0.0, potential[1:])
        reward = sparse(success, potential[:-1], after, config.sac.gamma, shaping)
    else:
        following = likeness(signs[1:], followed[to])
        if config.reward == "semantic":
            reward = semantic_match(following, episode.residuals, shaping)
        else:
            present, stay = likeness(signs[:-1], followed[at]), likeness(signs[1:], signs[:-1])
            reward = anti_idling(following, present, stay, shaping)
        reward = reward + shaping.success * success
    return reward.astype(np.float32), np.stack([np.full(count, index), at], axis=1)


@dataclass(frozen=True)
class Signs:
    """What steps are compared by, float32: key (..., d) and mean latent token (..., dz), both of unit norm; proprio
    (..., P); sketch (..., T, d), only where likeness is by Sinkhorn."""

    key: np.ndarray
    latent: np.ndarray
    proprio: np.ndarray
    sketch: np.ndarray | None

    def __getitem__(self, index: Any) -> Signs:
        return tree_map(lambda _, x: x[index], self)


@dataclass(frozen=True)
class Likeness:
    """In [0, 1]. similarity: "fused", (38) with the weights that recall has if it is told none, or "sinkhorn", (55).
    spread: (P,) of proprioception, sigma of (35)."""

    similarity: str
    spread: np.ndarray

    def of(self, steps: Sequence[PolicyStep]) -> Signs:
        tokens = np.stack([s.sketch.dequantise() for s in steps]) if self.similarity == "sinkhorn" else None
        keys, latents = np.stack([s.key.dequantise() for s in steps]), np.stack([s.latent for s in steps])
        return Signs(unit(keys), mean_latent(latents), np.stack([s.proprio for s in steps]), tokens)

    def stored(self, rollout: StoredRollout) -> Signs:
        arrays, tokens = rollout.arrays, None
        if self.similarity == "sinkhorn":
            tokens = np.stack([s.dequantise() for s in rollout.sketches(*range(len(arrays.steps)))])
        return Signs(unit(arrays.key.dequantise()), mean_latent(arrays.latent), arrays.proprio, tokens)

    def __call__(self, a: Signs, b: Signs) -> np.ndarray:
        """(...,); leading axes broadcast."""
        if self.similarity == "sinkhorn":
            return sinkhorn_similarity(torch.from_numpy(a.sketch), torch.from_numpy(b.sketch)).numpy()
        cosines = CUES.visual * (a.key * b.key).sum(-1) + CUES.latent * (a.latent * b.latent).sum(-1)
        near = np.exp(-0.5 * np.square((a.proprio - b.proprio) / self.spread).sum(-1))
        together = (CUES.visual + CUES.latent + cosines) / 2 + CUES.proprio * near
        return np.clip(together / (CUES.visual + CUES.latent + CUES.proprio), 0, 1)


def _rollout(episode: Episode, robot: str, index: int) -> Rollout:
    """What the base alone did, to be remembered."""
    context, length = episode.observations[0].context, len(episode.residuals)
    outcome = Outcome.SUCCESS if episode.success else Outcome.FAILURE
    told = (context.task, context.instruction, context.seed, outcome, episode.length, index, episode.steps[0].policy)
    steps = []
    for observation, step in zip(episode.observations[:length], episode.steps[:length], strict=True):
        nothing = np.zeros_like(step.base)
        said = Correction(step.context, step.base, nothing, step.base, 0.0, Mode.BASE, "not corrected")
        steps.append(RolloutStep(observation, step, said))
    return Rollout(context.episode_id, robot, *told, steps=tuple(steps))


def _lived(config: FinetuneConfig, likeness: Likeness, episodes: Sequence[Episode]) -> Lived:
    rows = [transitions(config, likeness, episode) for episode in episodes if len(episode.residuals)]
    succeeded = np.concatenate([np.full(len(episode.residuals), episode.success) for episode in episodes])
    return Lived(tuple(episode.success for episode in episodes), _joined(rows) if rows else None, succeeded)


def _joined(trees: Sequence[Tree]) -> Tree:
    """Rows of all, one after the other."""
    parts = [leaves(tree) for tree in trees]
    return tree_map(lambda name, _: np.concatenate([part[name] for part in parts]), trees[0])


def _bank(config: FinetuneConfig, deployment: int) -> Path:
    return Path(config.directory) / "banks" / str(deployment)


def _base(config: FinetuneConfig, deployment: int) -> Path:
    return Path(config.directory) / "base" / f"{deployment}.safetensors"


# The learner


def finetune(config: FinetuneConfig, executor: Executor | None = None) -> Path:
    """Run, or go on with, a run; returns the directory of the best checkpoint: `Efn`, its critics, facts.json.

    executor: anything with the interface of concurrent.futures; else so many processes of its own. Raises ValueError
    for a directory that holds a run with other settings and for a checkpoint that changes latent tokens, and as
    `Efn.from_pretrained` does.
    """
    began = time.monotonic()
    require_action_space(config.checkpoint, "reinforcement learning")
    for name in ("banks", "base"):
        (Path(config.directory) / name).mkdir(parents=True, exist_ok=True)
    _same_settings(config)
    own = executor is None
    if own:
        executor = ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        lived = [LIVED_SEED + i for i in range(config.deployments)]
        missing = [
            deployment
            for deployment in (*lived, *(MEASURED_SEED + i for i in range(config.measured)))
            if not _base(config, deployment).exists()
        ]
        futures = [executor.submit(remember, config, deployment) for deployment in missing]
        for future in tqdm(futures, desc="banks", disable=not futures):
            future.result()
        return Learner(config, lived, executor, began).run()
    finally:
        if own:
            executor.shutdown(cancel_futures=True)


class Learner:
    """Replay, soft actor-critic and where the run is; all of it in one directory, which is there as a whole."""

    def __init__(self, config: FinetuneConfig, deployments: Sequence[int], executor: Executor, began: float) -> None:
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self._config, self._deployments, self._executor, self._began = config, deployments, executor, began
        self._directory, device = Path(config.directory), "cuda" if torch.cuda.is_available() else "cpu"
        actor = Efn.from_pretrained(config.checkpoint).to(device)
        start_nearly_deterministic(actor.head, config.log_std)
        critics = EfnCritics(replace(actor.config, dropout=0.0), config.critics).to(device)
        remembers = actor.config.remembers
        taught = Efn.from_pretrained(config.checkpoint).to(device)
        settings = replace(config.sac, bound=actor.config.bound, seed=config.seed)
        self._sac = Sac(settings, actor, critics, lambda _, past: past.there.any(dim=1) | (not remembers), taught)
        example = self._remembered(deployments[0]).rows
        self._online = Replay(example, config.capacity, config.seed)
        self._successes = Replay(example, config.capacity, config.seed + 1)
        self._replay = SymmetricReplay(self._online, self._successes)
        # What facts.json and the next process want to know.
        self._at = {"round": 0, "episodes": 0, "decisions": 0, "best_round": 0, "seconds": 0.0, "successes": {}}
        if not self._load():
            for deployment in deployments:
                self._take(self._remembered(deployment))
            for _ in tqdm(range(config.warm_updates), desc="critics", disable=not config.warm_updates):
                self._sac.warm_start(self._batch())
            self._measure()
            self._save()

    def run(self) -> Path:
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
        """All processes live with the same actor, then it learns; what TensorBoard shows."""
        config, at, sac = self._config, self._at, self._sac
        rng = np.random.default_rng([config.seed, at["round"]])
        sac.xi = config.xi + (1 - config.xi) * phase_in(at["round"], 0, config.phase_in)
        chosen = rng.choice(self._deployments, config.visits, replace=False).tolist()
        seeds = [(config.seed, at["round"], i) for i in range(len(chosen))]
        actor = self._actor()
        lived = self._visit([Visit(config, d, actor, s, sac.xi) for d, s in zip(chosen, seeds, strict=True)])
        fresh = sum(self._take(part) for part in lived)
        outcomes = [outcome for part in lived for outcome in part.outcomes]
        learn = sac.warm_start if at["round"] < config.critic_rounds else sac.update
        learnt = [learn(self._batch()) for _ in range(round(config.updates * fresh))]
        at["round"] += 1
        at["episodes"] += len(outcomes)
        at["decisions"] += fresh
        scalars = {"success": np.mean(outcomes), "xi": sac.xi, "decisions": at["decisions"]}
        for name in sorted({name for values in learnt for name in values}):
            scalars[f"sac/{name}"] = float(torch.stack([v[name] for v in learnt if name in v]).mean())
        return scalars

    def _measure(self) -> float:
        """Share of success of the actor's mean, always in the same scenes; keeps it where none before was better."""
        at, measured = self._at, range(MEASURED_SEED, MEASURED_SEED + self._config.measured)
        actor = self._actor()
        lived = self._visit([Visit(self._config, d, actor, measures=True) for d in measured])
        success = round(float(np.mean([outcome for part in lived for outcome in part.outcomes])), 4)
        best = at["successes"].get(str(at["best_round"]), -1.0)
        at["successes"][str(at["round"])] = success
        if success > best:
            at["best_round"] = at["round"]
            self._keep(lived)
        return success

    @torch.no_grad()
    def _keep(self, lived: Sequence[Lived]) -> None:
        """A checkpoint that `LearnedResidual` loads. disagreement: of the critics, median over the measured decisions
        that ended well (if none did, over all): a `disagreement_scale` of so much leaves half of the residual there."""
        target = self._best()
        partial = _emptied(target.with_suffix(".tmp"))
        self._sac.actor.save_pretrained(partial)
        self._sac.critics.save_pretrained(partial)
        rows = [(observation_of(part.rows.observation), part.rows.action) for part in lived]
        disagreement = torch.cat([self._sac.disagreement(*row) for row in rows])
        well = np.concatenate([part.succeeded for part in lived])
        median = float(disagreement[torch.from_numpy(well | ~well.any()).to(disagreement.device)].median())
        facts = {**self._at, "minutes": round(self._seconds() / 60, 1), "updates": self._sac.updates}
        facts |= {"disagreement": median, "config": _settings(self._config)}
        (partial / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        _moved(partial, target)

    def _actor(self) -> str:
        """Directory of the present actor, for whoever lives with it."""
        self._sac.actor.save_pretrained(self._directory / "actor")
        return str(self._directory / "actor")

    def _visit(self, jobs: Sequence[Visit]) -> list[Lived]:
        return [future.result() for future in [self._executor.submit(visit, job) for job in jobs]]

    def _remembered(self, deployment: int) -> Lived:
        arrays, _ = replay.read(_base(self._config, deployment))
        rows = tree_map(lambda name, _: arrays[name], ROWS)
        return Lived(tuple(arrays["outcomes"].tolist()), rows, arrays["succeeded"])

    def _take(self, lived: Lived) -> int:
        """Into the replay; how many decisions there were."""
        if lived.rows is not None:
            self._online.insert(lived.rows)
            self._successes.insert(tree_map(lambda _, x: x[lived.succeeded], lived.rows))
        return len(lived.succeeded)

    def _batch(self) -> Transition:
        rows = self._replay.sample(self._config.batch)
        before, after = observation_of(rows.observation), observation_of(rows.next_observation)
        return replace(rows, observation=before, next_observation=after)

    def _state(self) -> Path:
        return self._directory / f"state_{self._at['round']}"

    def _best(self) -> Path:
        return self._directory / f"best_{self._at['best_round']}"

    def _seconds(self) -> float:
        return self._at["seconds"] + time.monotonic() - self._began

    def _save(self) -> None:
        """Everything, in a directory that appears as a whole; what it makes superfluous goes."""
        at, target = self._at, self._state()
        partial = _emptied(target.with_suffix(".tmp"))
        self._sac.save(partial / "sac.safetensors")
        self._online.save(partial / "online.safetensors")
        self._successes.save(partial / "successes.safetensors")
        replay.write(partial / "at.safetensors", {}, {**at, "seconds": self._seconds()})
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
        self._at = replay.read(state / "at.safetensors")[1]
        return True


def _settings(config: FinetuneConfig) -> dict[str, Any]:
    """What decides a run, as JSON has it: all but how long it is and where."""
    settings = json.loads(json.dumps(asdict(config)))
    return {n: v for n, v in settings.items() if n not in ("directory", "episodes", "minutes", "processes")}


def _same_settings(config: FinetuneConfig) -> None:
    file, own = Path(config.directory) / "settings.json", _settings(config)
    before = json.loads(file.read_text()) if file.exists() else own
    for name in sorted({*own, *before}):
        if own.get(name) != before.get(name):
            raise ValueError(
                f"{config.directory} holds a run with {name} {before.get(name)}, not {own.get(name)}; name another one"
            )
    file.write_text(json.dumps(own, indent=1) + "\n")


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _moved(partial: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
