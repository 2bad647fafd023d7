"""The first EFN for a policy that no simulator can shift: taught by what its bank's rollouts did and how they ended.

The lessons are those of `learner`: where a corrected or probed rollout succeeded, what was added to the base action is
the target; where the base alone did, nothing. What the other rollouts recall goes in, out of another share of the bank
each time, so that one set of weights serves any volume. Probes differ, so what is common to those that succeeded is
what was needed; squares, unlike absolute values, find that mean. Most of a probe is chance, and a bank is small: kept
are the weights that did best on held-out rollouts, those of no residual among them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from efn_ros.bank import BankReader, StoredRollout
from efn_ros.bank.format.steps import successors
from efn_ros.efn.actor import Efn
from efn_ros.efn.config import SIZES, EfnConfig
from efn_ros.features.codes import principal_components
from efn_ros.runtime.factory import make_recall
from efn_ros.runtime.graph import Graph
from efn_ros.training.bank_dataset import DECIDED, SMALLEST_BOUND, Lessons, is_held_out
from efn_ros.training.dataset import SAMPLED_SKETCHES
from efn_ros.training.loop import descend
from efn_ros.training.supervised import MEASURED, spread
from efn_ros.types import Mode, Outcome

BEST = "best.json"  # what held-out rollouts said of the weights beside it, while a training is under way


@dataclass(frozen=True)
class HindsightConfig:
    """bank: directory of rollouts of one policy. robot, overlays: whose recall and largest residual. draws: how often
    each decision recalls, each time out of another share of the bank. anchor: weight of a decision that the base alone
    made in a success, against 1 for one that was corrected. held_out: share of rollouts that only measure. codes,
    remembers: of `EfnConfig`. Its network trusts memory blindly: whether it fits is learnt in many deployments.
    """

    directory: str
    bank: str
    robot: str = "libero_sim"
    overlays: tuple[str, ...] = ()
    size: str = "small"
    codes: int = 64
    remembers: bool = True
    draws: int = 3
    updates: int = 1000
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    anchor: float = 0.25
    held_out: float = 0.1
    validate_every: int = 250
    seed: int = 0
    threads: int = 1


def teach(config: HindsightConfig) -> Path:
    """Train from nothing, or go on where a call with the same settings was killed; returns the checkpoint, whose
    facts.json holds what it scored on held-out rollouts. One that is finished is not made again.

    Raises ValueError for a directory with a network of other settings or of a bank that has grown since; for a bank
    without a success that was corrected or probed, on either side of what is held out, as there is nothing to learn or
    to measure then; and the errors of `BankReader.snapshot`.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    graph, snapshot = Graph.load(config.robot, config.overlays), BankReader(Path(config.bank).expanduser()).snapshot()
    memory = [r for r in snapshot.rollouts if r.record.recallable and np.isin(r.arrays.modes, DECIDED).any()]
    memory = [r for r in memory if r.record.policy == memory[-1].record.policy]
    parts = [[r for r in memory if is_held_out(r.record.id, config.held_out) == held] for held in (False, True)]
    for part, what in zip(parts, ("to learn from", f"held out ({config.held_out:g} of all)"), strict=True):
        if not any(r.record.outcome == Outcome.SUCCESS and (r.arrays.modes == Mode.CORRECTED).any() for r in part):
            raise ValueError(f"{config.bank} holds no corrected or probed success {what}; let exploration probe")
    rng, directory = np.random.default_rng(config.seed), Path(config.directory)
    settings = {name: value for name, value in asdict(config).items() if name != "directory"}
    told, facts_file = {"config": settings, "rollouts": len(memory)}, directory / "facts.json"
    if facts_file.exists():
        before, own = json.loads(facts_file.read_text()), json.loads(json.dumps(told))
        if any(before.get(name) != value for name, value in own.items()):
            raise ValueError(f"{directory} holds a network of other settings or another bank; name another directory")
        return directory
    bound = tuple(float(b) for b in graph.parameters("efn_corrector")["limits.residual"])
    efn = _untrained(config, memory, bound, rng)
    recall = make_recall(graph.parameters("experience_retrieval"))
    taught = Lessons(parts[0] * config.draws, memory, recall, efn, snapshot.projection, share=rng)
    checks = Lessons(parts[1], memory, recall, efn, snapshot.projection)
    directory.mkdir(parents=True, exist_ok=True)
    log, state = SummaryWriter(directory / "log"), directory / "hindsight.safetensors"
    best = directory / BEST

    def measure() -> dict[str, float]:
        said = validate(efn.eval(), checks, config)
        if said["memory"] < json.loads(best.read_text())["memory"]:
            _keep(efn, best, said)
        return said

    if not state.exists():
        _keep(efn, best, validate(efn.eval(), checks, config))
    learnt = {name: p for name, p in efn.named_parameters() if not name.startswith("identify.")}
    _, seconds = descend(
        learnt,
        lambda rng: _loss(efn.train(), taught, config, rng),
        measure,
        state,
        log,
        updates=config.updates,
        rate=config.learning_rate,
        weight_decay=config.weight_decay,
        every=config.validate_every,
        seed=config.seed,
        settings=settings | {"rollouts": len(memory)},
    )
    log.close()
    facts = told | {"decisions": len(taught), "minutes": seconds / 60}
    facts |= {"corrected": int((taught.corrected & taught.success).sum()), "validation": json.loads(best.read_text())}
    facts_file.write_text(json.dumps(facts, indent=1) + "\n")
    for file in (state, best):
        file.unlink()
    return directory


def validate(efn: Efn, checks: Lessons, config: HindsightConfig) -> dict[str, float]:
    """Mean square distance, in shares of the bound, to what was added in held-out successes; `none` without a residual,
    `corrected_` over decisions that were corrected."""
    rows = np.flatnonzero(checks.success)
    rows = np.random.default_rng(config.seed).permutation(rows)[:MEASURED]
    with torch.inference_mode():
        residual = efn.residual(*checks.batch(rows))
        missed = [_distance(efn, x, checks.target[rows]) for x in (torch.zeros_like(residual), residual)]
    corrected = torch.from_numpy(checks.corrected[rows])
    named = {"none": missed[0], "memory": missed[1]}
    named |= {f"corrected_{name}": values[corrected] for name, values in named.items()}
    return {name: values.mean().item() for name, values in named.items()}


def _keep(efn: Efn, best: Path, said: dict[str, float]) -> None:
    efn.save_pretrained(best.parent)
    best.write_text(json.dumps(said))


def _loss(
    efn: Efn, lessons: Lessons, config: HindsightConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    weight = lessons.weight(config.anchor)
    rows = rng.choice(len(lessons), config.batch, p=weight / weight.sum(dtype=np.float64))
    missed = _distance(efn, efn.residual(*lessons.batch(rows)), lessons.target[rows]).mean()
    return missed, {"train": missed.item()}


def _distance(efn: Efn, residual: Tensor, target: np.ndarray) -> Tensor:
    """(B,)"""
    bound = efn.bound.clamp(min=SMALLEST_BOUND)
    return ((residual - torch.from_numpy(target).clamp(-bound, bound)) / bound).square().mean((1, 2))


def _untrained(
    config: HindsightConfig, memory: list[StoredRollout], bound: tuple[float, ...], rng: np.random.Generator
) -> Efn:
    """A network that fits the bank."""
    arrays = [rollout.arrays for rollout in memory]
    proprio = np.concatenate([a.proprio for a in arrays])
    motion = np.concatenate([a.proprio[successors(a.steps)] - a.proprio for a in arrays])
    chosen = rng.permutation(len(memory))
    sketches: list[np.ndarray] = []
    for index in chosen:
        steps = memory[index].sketches(*range(len(arrays[index].steps)))
        sketches += [step.dequantise() for step in steps]
        if len(sketches) >= SAMPLED_SKETCHES:
            break
    efn = Efn(
        EfnConfig(
            horizon=arrays[0].base.shape[1],
            action_size=arrays[0].base.shape[2],
            latent=arrays[0].latent.shape[1:],
            sketch=sketches[0].shape,
            bound=bound,
            proprio_mean=proprio.mean(axis=0).tolist(),
            proprio_std=spread(proprio),
            motion_std=spread(motion),
            dropout=config.dropout,
            remembers=config.remembers,
            codes=config.codes,
            **SIZES[config.size],
        )
    )
    if config.codes:
        mean, basis = principal_components(np.stack(sketches).reshape(len(sketches), -1), config.codes)
        efn.code_mean.copy_(torch.from_numpy(mean))
        efn.code_basis.copy_(torch.from_numpy(basis))
    return efn
