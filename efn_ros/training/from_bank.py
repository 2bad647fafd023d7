"""The first EFN for a policy that no simulator can shift, trained by what its bank's rollouts did and how they ended.

The samples are those of `BankDataset`: where a corrected or explored rollout succeeded, what was added to the base
action is the target; where the base alone did, nothing. What the other rollouts recall is the input, out of another
subset of the bank each time, so that one set of weights serves any volume. Exploration differs from rollout to rollout,
so what is common to those that succeeded is what was needed; squares, unlike absolute values, find that mean. Most of
it is chance, and a bank is small: kept are the weights that did best on held-out rollouts, no residual among them.
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
from efn_ros.runtime.factory import make_retrieval_config
from efn_ros.runtime.graph import Graph
from efn_ros.training.bank_dataset import DECIDED, MIN_BOUND, BankDataset, is_held_out
from efn_ros.training.dataset import MAX_SKETCHES
from efn_ros.training.loop import LoopConfig, TrainingLoop, warmup_cosine
from efn_ros.training.state import check_settings
from efn_ros.training.supervised import FACTS, MAX_VALIDATED, set_codes, std_or_one
from efn_ros.types import Mode, Outcome

BEST = "best.json"  # validation of the weights beside it, while a training is under way


@dataclass(frozen=True)
class FromBankConfig:
    """Settings of `train_from_bank`. Its network trusts memory blindly: trust is trained in many deployments."""

    directory: str
    bank: str  # directory of rollouts of one policy
    graph: str = "metaworld_sim"  # whose recall and largest residual
    overlays: tuple[str, ...] = ()  # parameter files laid over those of the graph
    size: str = "small"  # of the network, one of SIZES
    code_size: int = 64  # of `EfnConfig`
    use_memory: bool = True  # of `EfnConfig`
    draws: int = 3  # how often each decision recalls, each time out of another subset of the bank
    updates: int = 1000
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    base_weight: float = 0.25  # of a decision that the base alone made in a success, against 1 for a corrected one
    held_out_fraction: float = 0.1  # of rollouts that only validate
    validate_every: int = 250  # updates
    seed: int = 0
    threads: int = 1


def train_from_bank(config: FromBankConfig) -> Path:
    """Train from nothing, or go on where a call with the same settings was interrupted.

    A network that is finished is not trained again.

    Returns:
        The directory of the checkpoint, whose facts.json holds its validation.

    Raises:
        ValueError: The directory holds a network of other settings or of a bank that has grown since; or the bank has
            no success that was corrected or explored, on either side of what is held out.
        BankError: As `BankReader.snapshot` raises it.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    graph, snapshot = Graph.load(config.graph, config.overlays), BankReader(Path(config.bank).expanduser()).snapshot()
    memory = [r for r in snapshot.rollouts if r.record.recallable and np.isin(r.arrays.modes, DECIDED).any()]
    memory = [r for r in memory if r.record.policy == memory[-1].record.policy]
    training, held_out = _split(memory, config)
    rng, directory = np.random.default_rng(config.seed), Path(config.directory)
    settings = {name: value for name, value in asdict(config).items() if name != "directory"}
    settings |= {"rollouts": len(memory)}
    facts_file = directory / FACTS
    if facts_file.exists():
        check_settings(directory, json.loads(facts_file.read_text())["config"], settings)
        return directory
    bound = tuple(float(b) for b in graph.parameters("efn_corrector")["limits.residual"])
    efn = _network(config, memory, bound, rng)
    retrieval = make_retrieval_config(graph.parameters("experience_retrieval"))
    projection = snapshot.projection
    samples = BankDataset(training * config.draws, memory, retrieval, efn, projection=projection, subsets=rng)
    validation = BankDataset(held_out, memory, retrieval, efn, projection=projection)
    directory.mkdir(parents=True, exist_ok=True)
    log, state, best = SummaryWriter(directory / "log"), directory / "from_bank.safetensors", directory / BEST

    def keep_best() -> dict[str, float]:
        losses = validate(efn.eval(), validation, config)
        if not best.exists() or losses["memory"] < json.loads(best.read_text())["memory"]:
            efn.save_pretrained(directory)
            best.write_text(json.dumps(losses))
        return losses

    if not state.exists():
        best.unlink(missing_ok=True)
        keep_best()
    rate = warmup_cosine(config.learning_rate, config.updates)
    how = LoopConfig(config.updates, rate, config.weight_decay, config.seed, config.validate_every, settings)
    parameters = {name: p for name, p in efn.named_parameters() if not name.startswith("identify.")}
    loop = TrainingLoop(parameters, how, state, log=log)
    loop.run(lambda _, batch_rng: _loss(efn.train(), samples, config, batch_rng), keep_best)
    log.close()
    facts = {
        "config": settings,
        "decisions": len(samples),
        "minutes": loop.seconds / 60,
        "corrected": int((samples.corrected & samples.success).sum()),
        "validation": json.loads(best.read_text()),
    }
    facts_file.write_text(json.dumps(facts, indent=1) + "\n")
    for file in (state, best):
        file.unlink()
    return directory


def validate(efn: Efn, samples: BankDataset, config: FromBankConfig) -> dict[str, float]:
    """Return mean square distances, in shares of the bound, to what was added in held-out successes.

    `none` without a residual, `memory` with the network's; `corrected_` over decisions that were corrected.
    """
    rows = np.flatnonzero(samples.success)
    rows = np.random.default_rng(config.seed).permutation(rows)[:MAX_VALIDATED]
    with torch.inference_mode():
        residual = efn.residual(*samples.batch(rows))
        distances = [_distance(efn, x, samples.target[rows]) for x in (torch.zeros_like(residual), residual)]
    corrected = torch.from_numpy(samples.corrected[rows])
    named = {"none": distances[0], "memory": distances[1]}
    named |= {f"corrected_{name}": values[corrected] for name, values in named.items()}
    return {name: values.mean().item() for name, values in named.items()}


def _split(memory: list[StoredRollout], config: FromBankConfig) -> tuple[list[StoredRollout], list[StoredRollout]]:
    """The rollouts that are trained on, and those that are held out."""
    parts = [
        [r for r in memory if is_held_out(r.record.id, config.held_out_fraction) == held] for held in (False, True)
    ]
    for part, what in zip(parts, ("to train on", f"held out ({config.held_out_fraction:g} of all)"), strict=True):
        if not any(r.record.outcome == Outcome.SUCCESS and (r.arrays.modes == Mode.CORRECTED).any() for r in part):
            raise ValueError(f"{config.bank} holds no corrected or explored success {what}; let exploration act")
    return parts[0], parts[1]


def _loss(
    efn: Efn, samples: BankDataset, config: FromBankConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    weight = samples.weights(config.base_weight)
    rows = rng.choice(len(samples), config.batch_size, p=weight / weight.sum(dtype=np.float64))
    distance = _distance(efn, efn.residual(*samples.batch(rows)), samples.target[rows]).mean()
    return distance, {"train": distance.item()}


def _distance(efn: Efn, residual: Tensor, target: np.ndarray) -> Tensor:
    """Mean square share of the bound, (B,)."""
    bound = efn.bound.clamp(min=MIN_BOUND)
    return ((residual - torch.from_numpy(target).clamp(-bound, bound)) / bound).square().mean((1, 2))


def _network(
    config: FromBankConfig, memory: list[StoredRollout], bound: tuple[float, ...], rng: np.random.Generator
) -> Efn:
    """An untrained network that fits the bank."""
    arrays = [rollout.arrays for rollout in memory]
    proprio = np.concatenate([a.proprio for a in arrays])
    motion = np.concatenate([a.proprio[successors(a.steps)] - a.proprio for a in arrays])
    sketches: list[np.ndarray] = []
    for index in rng.permutation(len(memory)):
        steps = memory[index].sketches(*range(len(arrays[index].steps)))
        sketches += [step.dequantise() for step in steps]
        if len(sketches) >= MAX_SKETCHES:
            break
    efn = Efn(
        EfnConfig(
            horizon=arrays[0].base.shape[1],
            action_size=arrays[0].base.shape[2],
            latent=arrays[0].latent.shape[1:],
            sketch=sketches[0].shape,
            bound=bound,
            proprio_mean=proprio.mean(axis=0).tolist(),
            proprio_std=std_or_one(proprio),
            motion_std=std_or_one(motion),
            dropout=config.dropout,
            use_memory=config.use_memory,
            code_size=config.code_size,
            **SIZES[config.size],
        )
    )
    if config.code_size:
        set_codes(efn, np.stack(sketches).reshape(len(sketches), -1))
    return efn
