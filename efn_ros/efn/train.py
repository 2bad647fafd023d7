"""Supervised training of the EFN on lessons from many simulated deployments, in rounds.

Round 0 teaches beside the base policy and its teacher; in every later round the network before it drives half of the
lessons (DAgger), so that it learns in the states to which it leads. For each taught decision a batch draws a bank
of another size out of its deployment's rollouts, so that one set of weights serves any volume of memory.

In latent space the network learns which change of the latent tokens gives the teacher's residual: the loss is on the
action, and gradients flow through the policy's decoder, (2), whose weights stay as they are.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from efn_ros.assembly import make_policy
from efn_ros.bank.codes import principal_components
from efn_ros.efn.descent import descend, refuse_others
from efn_ros.efn.latent import latent_bound, latent_residual
from efn_ros.efn.lessons import LessonConfig, collect, paths_of
from efn_ros.efn.network import ACTION, LATENT, MOTION, SIZES, SPACES, Efn, EfnConfig, Present, Recalled, Recent
from efn_ros.graph import Graph
from efn_ros.worlds.deployment import MAX_GAIN_LOG, MAX_OFFSET, MAX_YAW_RAD, arm_coordinates

RESIDUAL_SCALE = 0.1  # of the action's range, where the loss turns from squares to absolute values
SMALLEST_SPREAD = 1e-6
SAMPLED_SKETCHES = 3000  # of which the principal components are taken
SETTINGS = "settings.json"  # of lessons, beside them
MEASURED = 1024  # decisions at most, in one validation


@dataclass(frozen=True)
class TrainConfig:
    """deployments, updates: one entry a round. volumes: of banks, in rollouts. disguised: share of taught decisions
    that are taught with another arm. identification, trust_identification: weights of telling the deployment.
    codes, recent: of `EfnConfig`. trust_updates: of trust, after all others, with another deployment's memory in a
    share of `wrong` of the rows. validation: share of the deployments that only measure. first_seed: of deployments;
    those below are for evaluation. remembers: False trains a network without memory, to compare with. space: of
    `EfnConfig`. In "latent" lessons keep V, and `latent_bound` is `latent_share` of how far each channel
    spreads over the lessons. Raises ValueError for another space.
    """

    directory: str
    size: str = "small"
    deployments: tuple[int, ...] = (120, 60)
    updates: tuple[int, ...] = (3000, 8000)
    volumes: tuple[int, ...] = (1, 2, 4, 8)
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    disguised: float = 0.8
    identification: float = 0.1
    trust_identification: float = 0.3
    codes: int = 64
    recent: int = 8
    trust_updates: int = 2000
    wrong: float = 0.4
    validation: float = 0.1
    validate_every: int = 250
    seed: int = 0
    first_seed: int = 10_000
    remembers: bool = True
    processes: int = 2
    threads: int = 1
    space: str = ACTION
    latent_share: float = 0.5
    lessons: LessonConfig = LessonConfig(seed=0)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"space is {self.space!r}; there are {', '.join(map(repr, SPACES))}")
        if self.space == LATENT:
            object.__setattr__(self, "lessons", replace(self.lessons, visual=True))


def train(config: TrainConfig) -> Path:
    """Run, or go on with, all rounds; returns the directory of the checkpoint."""
    directory, checkpoint = Path(config.directory), ""
    seed = config.first_seed
    for round_, (deployments, updates) in enumerate(zip(config.deployments, config.updates, strict=True)):
        seeds = range(seed, seed + deployments)
        gather(config, seeds, directory / "lessons", checkpoint)
        seed += deployments
        target = directory / f"round_{round_}"
        if (target / "facts.json").exists():
            facts = json.loads((target / "facts.json").read_text())
            refuse_others(target, _of_a_round(facts["config"], facts["updates"]), _of_a_round(asdict(config), updates))
        else:
            fit(config, range(config.first_seed, seed), updates, target)
        checkpoint = str(target)
    return Path(checkpoint)


def _of_a_round(config: dict[str, Any], updates: int) -> dict[str, Any]:
    """What one round was trained with, beside its lessons: others may follow it, on another machine."""
    whole = ("directory", "deployments", "updates", "processes", "threads", "lessons")
    return {name: value for name, value in config.items() if name not in whole} | {"updates": updates}


def gather(config: TrainConfig, seeds: range, directory: Path, checkpoint: str) -> None:
    """Lessons of every deployment that are not there yet. Raises ValueError where those that are there were collected
    with other settings, which lie beside them."""
    settings = {name: value for name, value in asdict(config.lessons).items() if name not in ("seed", "checkpoint")}
    said = directory / SETTINGS
    if said.exists():
        refuse_others(directory, json.loads(said.read_text()), settings)
    missing = [s for s in seeds if not (directory / f"{s}.npz").exists()]
    if not missing:
        return
    directory.mkdir(parents=True, exist_ok=True)
    said.write_text(json.dumps(settings, indent=1) + "\n")
    with ProcessPoolExecutor(config.processes, mp_context=multiprocessing.get_context("spawn")) as executor:
        jobs = [replace(config.lessons, seed=s, checkpoint=checkpoint) for s in missing]
        futures = [executor.submit(collect, job, directory) for job in jobs]
        progress = tqdm(as_completed(futures), total=len(seeds), initial=len(seeds) - len(missing), desc="deployments")
        for future in progress:
            future.result()


@dataclass(frozen=True)
class Arm:
    """How arms answer, one for each row: offset (B, 3), gain and yaw_rad (B,), as in `Deployment`."""

    offset: np.ndarray
    gain: np.ndarray
    yaw_rad: np.ndarray

    @classmethod
    def draw(cls, count: int, rng: np.random.Generator) -> Arm:
        """Each shift is there in half of the rows."""
        there, size = rng.random((3, count)) < 0.5, rng.uniform(-1, 1, (5, count))
        return cls(
            offset=MAX_OFFSET * (size[:3] * there[0]).T,
            gain=np.exp(MAX_GAIN_LOG * size[3] * there[1]),
            yaw_rad=MAX_YAW_RAD * size[4] * there[2],
        )

    @classmethod
    def of(cls, coordinates: np.ndarray) -> Arm:
        """From the first five of `Deployment.coordinates`, (B, 5)."""
        offset, gain, yaw = np.split(coordinates.astype(np.float64), (3, 4), axis=1)
        return cls(MAX_OFFSET * offset, np.exp(MAX_GAIN_LOG * gain[:, 0]), MAX_YAW_RAD * yaw[:, 0])

    def after(self, first: Arm) -> Arm:
        """The arm that is told what `first` makes of a command."""
        cos, sin = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        x, y, z = first.offset.T
        turned = np.column_stack([cos * x - sin * y, sin * x + cos * y, z])
        offset = self.offset + self.gain[:, None] * turned
        return Arm(offset, self.gain * first.gain, self.yaw_rad + first.yaw_rad)

    def undo(self, actions: np.ndarray) -> np.ndarray:
        """The actions (B, ..., A), float32, whose translation this arm turns into that of `actions`; in [-1, 1]."""
        axes = (slice(None), *(None,) * (actions.ndim - 2))
        x, y, z = np.moveaxis((actions[..., :3] - self.offset[(*axes, slice(None))]) / self.gain[(*axes, None)], -1, 0)
        cos, sin = np.cos(self.yaw_rad)[axes], np.sin(self.yaw_rad)[axes]
        moved = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1)
        return np.concatenate([np.clip(moved, -1, 1), actions[..., 3:]], axis=-1).astype(np.float32)


class Lessons:
    """All taught decisions and what their deployments remember, as arrays side by side."""

    def __init__(self, paths: list[Path], config: TrainConfig, decoder: nn.Module | None = None) -> None:
        """decoder: of the frozen policy, where the network changes latent tokens. Raises ValueError, naming the file,
        for lessons without the visual tokens that it then needs."""
        self._config, self._decoder = config, decoder
        self.parts = [{name: array for name, array in np.load(path).items()} for path in paths]
        for path, part in zip(paths, self.parts, strict=True):
            part["bank_code"] = np.zeros((len(part["bank_base"]), 0), np.float32)
            if "glimpses" in path.name:  # its memory is of other cameras
                part.pop("bank_sketch", None)
            if decoder is None:
                part.pop("visual", None)
            elif "visual" not in part:
                raise ValueError(f"{path} holds no visual tokens, which space {LATENT!r} needs; name another directory")
        names = ("latent", "sketch", "sketch_scale", "proprio", "base", "target", "deployment")
        self.taught = {name: np.concatenate([part[name] for part in self.parts]) for name in names}
        counts = [len(part["base"]) for part in self.parts]
        self.part = np.repeat(np.arange(len(self.parts)), counts)
        self.row = np.concatenate([np.arange(count) for count in counts])

    def __len__(self) -> int:
        return len(self.row)

    def encode(self, efn: Efn) -> None:
        """Write down what the network keeps of what each remembered step saw; zero where that is of other cameras."""
        for part in self.parts:
            part["bank_code"] = np.zeros((len(part["bank_base"]), efn.config.codes), np.float32)
            if efn.config.codes and "bank_sketch" in part:
                sketch = part.pop("bank_sketch") * part.pop("bank_sketch_scale")[..., None]
                part["bank_code"] = efn.code(torch.from_numpy(sketch)).numpy()

    def seen_by_their_own_cameras(self) -> np.ndarray:
        """Indices of the decisions whose memory was seen by the cameras that they are seen by."""
        own = [i for i, part in enumerate(self.parts) if part["bank_code"].any() or not part["bank_code"].shape[1]]
        return np.flatnonzero(np.isin(self.part, own))

    def to_action(self, output: Tensor, present: Present, rows: np.ndarray) -> Tensor:
        """The residual on the action, (B, H, A), of the network's bounded output for the decisions in `rows`, (B,)."""
        if self._decoder is None:
            return output
        visual = np.stack([self.parts[self.part[row]]["visual"][self.row[row]] for row in rows])
        return latent_residual(self._decoder, present.latent, torch.from_numpy(visual).float(), output)

    def batch(
        self, rows: np.ndarray, rng: np.random.Generator, volume: int = 0, disguised: float = 0.0, recent: int = 0
    ) -> tuple[Present, Recalled, Tensor, Tensor, Recent | None]:
        """What is taught in `rows`, (B,): steps, target (B, H, A) and coordinates of the deployment (B, 12).

        volume: of every bank; 0 draws one for each row. disguised: share of the rows taught with another arm. recent:
        so many decisions at most stand for what the episode has shown before; they are of a rollout that then is not
        in the bank. 0 for none.
        """
        c = self._config
        k = c.lessons.nearest + c.lessons.context
        columns: dict[str, list[np.ndarray]] = {}
        there = np.zeros((len(rows), k), bool)
        happened = np.zeros((len(rows), recent), bool)
        for i, row in enumerate(rows):
            part = self.parts[self.part[row]]
            kept_out = -1
            if recent:
                kept_out = int(rng.choice(part["bank_rollout"]))
                past = self._before(part, kept_out, self.taught["proprio"][row], int(rng.integers(recent + 1)))
                happened[i, : len(past)] = True
                past = np.pad(past, (0, recent - len(past)))  # with any row
                for name in MOTION:
                    columns.setdefault(f"recent_{name}", []).append(part[f"bank_{name}"][past])
            chosen = self._recall(part, self.row[row], rng, volume or int(rng.choice(c.volumes)), kept_out)
            there[i, : len(chosen)] = True
            chosen = np.pad(chosen, (0, k - len(chosen)), mode="edge")
            for name in (*MOTION, "base", "latent", "code", "success"):
                columns.setdefault(name, []).append(part[f"bank_{name}"][chosen])
            columns.setdefault("similarity", []).append(part["similarity"][self.row[row]][chosen])
        memory = {name: np.stack(column) for name, column in columns.items()}
        taught = {name: array[rows] for name, array in self.taught.items()}
        if disguised:
            chosen = np.flatnonzero(rng.random(len(rows)) < disguised)
            self._disguise(memory, taught, chosen, rng)
        tensor = torch.from_numpy
        taught["sketch"] = taught["sketch"] * taught["sketch_scale"][..., None]
        past = None
        if recent:
            past = Recent(**{n: tensor(memory.pop(f"recent_{n}")) for n in MOTION}, happened=tensor(happened))
        recalled = Recalled(**{name: tensor(array) for name, array in memory.items()}, there=tensor(there))
        present = Present(*(tensor(taught[name]) for name in ("latent", "sketch", "proprio", "base")))
        return present, recalled, tensor(taught["target"]), tensor(taught["deployment"]), past

    def _disguise(self, memory: dict, taught: dict, rows: np.ndarray, rng: np.random.Generator) -> None:
        """As if the arm had answered otherwise: the same motion, of memory and of the teacher, takes other commands.

        A shift T, drawn at random, comes before that of the deployment: what moved the arm as the command u did is now
        the inverse of T on u. So every taught decision serves for as many arms as there are draws.
        """
        arm = Arm.draw(len(rows), rng)
        told = ("executed", "base", "executed_before")  # what the base had said would else betray the shift
        for name in (n for n in memory if n.removeprefix("recent_") in told):
            was = memory[name][rows]
            memory[name][rows] = arm.undo(was) * was.any(axis=(-2, -1), keepdims=True)  # nothing stays nothing
        base, target = taught["base"][rows], taught["target"][rows]
        bound = np.array(self._config.lessons.bound, np.float32)
        taught["target"][rows] = np.clip(arm.undo(base + target) - base, -bound, bound)
        whole = Arm.of(taught["deployment"][rows, :5]).after(arm)
        taught["deployment"][rows, :5] = arm_coordinates(whole.offset, whole.gain, whole.yaw_rad)

    @staticmethod
    def _before(part: dict, rollout: int, proprio: np.ndarray, count: int) -> np.ndarray:
        """Rows of the bank: so many decisions of one of its rollouts, until it was nearest to where the robot is."""
        rows = np.flatnonzero(part["bank_rollout"] == rollout)
        nearest = int(np.argmin(np.square(part["bank_proprio"][rows] - proprio).sum(axis=1)))
        return rows[max(0, nearest + 1 - count) : nearest + 1][:count]

    def _recall(self, part: dict, row: int, rng: np.random.Generator, volume: int, kept_out: int = -1) -> np.ndarray:
        """Rows of the bank: the nearest, then some at random, out of `volume` of its rollouts."""
        rollouts = np.unique(part["bank_rollout"])
        rollouts = rollouts[rollouts != kept_out]
        kept = np.isin(part["bank_rollout"], rng.choice(rollouts, min(volume, len(rollouts)), replace=False))
        candidates, wanted = np.flatnonzero(kept), self._config.lessons
        nearest = candidates[np.argsort(-part["similarity"][row][candidates], kind="stable")[: wanted.nearest]]
        context = rng.choice(candidates, min(wanted.context, len(candidates)), replace=False)
        return np.concatenate([nearest, context])


def fit(config: TrainConfig, seeds: Sequence[int], updates: int, target: Path) -> None:
    """Train from nothing on the lessons of the deployments `seeds` and write checkpoint and facts to `target`; go on
    where a call with the same settings was killed. Raises ValueError where it was killed with others, where there is
    too little to teach trust with, and in latent space for a policy or lessons that cannot be decoded."""
    if config.recent and config.lessons.remembered < 2:
        raise ValueError(f"trust is taught with one rollout kept out of a bank; {config.lessons.remembered} is too few")
    decoder = frozen_decoder(config.lessons) if config.space == LATENT else None
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    held_out = max(1, round(config.validation * len(seeds)))
    measured = seeds[:: len(seeds) // held_out][:held_out]  # of every round some
    files = {seed: paths_of(seed, Path(config.directory) / "lessons") for seed in seeds}
    lessons = Lessons([path for seed in seeds if seed not in measured for path in files[seed]], config, decoder)
    checks = Lessons([files[seed][0] for seed in measured], config, decoder)
    efn = _untrained(config, lessons)
    lessons.encode(efn)
    checks.encode(efn)
    target.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in asdict(config).items() if name != "directory"}
    log, states = SummaryWriter(target / "log"), [target / "efn.safetensors", target / "trust.safetensors"]
    common = {
        **{"log": log, "rate": config.learning_rate, "weight_decay": config.weight_decay, "seed": config.seed},
        **{"every": config.validate_every, "settings": settings | {"updates": updates, "seeds": list(seeds)}},
    }
    learnt = {name: p for name, p in efn.named_parameters() if not name.startswith("trust.")}
    losses, seconds = descend(
        learnt,
        lambda rng: _residual_loss(efn.train(), lessons, config, rng),
        lambda: validate(efn.eval(), checks, config),
        states[0],
        updates=updates,
        **common,
    )
    if config.recent and config.remembers:
        eligible = lessons.seen_by_their_own_cameras()
        trusted, more = descend(
            dict(efn.trust.named_parameters()),
            lambda rng: _trust_loss(efn.eval(), lessons, eligible, config, rng),
            lambda: validate_trust(efn.eval(), checks, config),
            states[1],
            updates=config.trust_updates,
            **common,
        )
        losses, seconds = losses | trusted, seconds + more
    log.close()
    efn.save_pretrained(target)
    facts = {"config": settings, "updates": updates, "decisions": len(lessons), "deployments": len(seeds) - held_out}
    facts |= {"measured": len(checks.parts), "parameters": sum(p.numel() for p in efn.parameters())}
    facts |= {"minutes": round(seconds / 60, 1), "validation": losses}
    (target / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    for state in states:
        state.unlink(missing_ok=True)


def frozen_decoder(lessons: LessonConfig) -> nn.Module:
    """Of the robot's policy; its weights take no gradient. Raises ValueError for a policy that has none."""
    policy = make_policy(Graph.load(lessons.robot, lessons.overlays).parameters("vla_policy"))
    decoder = policy.decoder()
    if decoder is None:
        raise ValueError(
            f"policy {policy.spec.name!r} of {lessons.robot!r} has no decoder to learn through; use --space {ACTION}"
        )
    return decoder


def _untrained(config: TrainConfig, lessons: Lessons) -> Efn:
    """A network that fits the lessons."""
    proprio = np.concatenate([part["bank_proprio"] for part in lessons.parts])
    motion = np.concatenate([part["bank_proprio_next"] for part in lessons.parts]) - proprio
    _, horizon, size = lessons.taught["base"].shape
    bound = latent_bound(lessons.taught["latent"], config.latent_share).tolist() if config.space == LATENT else ()
    efn = Efn(
        EfnConfig(
            horizon=horizon,
            action_size=size,
            latent=lessons.taught["latent"].shape[1:],
            sketch=lessons.taught["sketch"].shape[1:],
            identified=lessons.taught["deployment"].shape[1],
            bound=config.lessons.bound,
            proprio_mean=proprio.mean(axis=0).tolist(),
            proprio_std=spread(proprio),
            motion_std=spread(motion),
            dropout=config.dropout,
            remembers=config.remembers,
            codes=config.codes,
            recent=config.recent if config.remembers else 0,
            space=config.space,
            latent_bound=bound,
            **SIZES[config.size],
        )
    )
    if config.codes:
        mean, basis = principal_components(sketches_of(lessons, np.random.default_rng(config.seed)), config.codes)
        efn.code_mean.copy_(torch.from_numpy(mean))
        efn.code_basis.copy_(torch.from_numpy(basis))
    return efn


def _residual_loss(
    efn: Efn, lessons: Lessons, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Distance to the teacher's residual, and beside it how well the deployment is told."""
    rows = rng.integers(len(lessons), size=config.batch)
    present, recalled, wanted, deployment, _ = lessons.batch(rows, rng, disguised=config.disguised)
    features = efn.features(present, recalled)
    residual = lessons.to_action(efn.bounded(efn.actor(features)[0], recalled), present, rows)
    corrected = _distance(residual, wanted)
    identified = F.mse_loss(efn.identify(features), deployment)
    said = {"train": corrected.item(), "train identification": identified.item()}
    return corrected + config.identification * identified, said


def _trust_loss(
    efn: Efn, lessons: Lessons, eligible: np.ndarray, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of whether the memory is right, and beside it how well its parts tell the deployment."""
    rows = rng.choice(eligible, config.batch)
    present, recalled, _, deployment, recent = lessons.batch(
        rows, rng, disguised=config.disguised, recent=config.recent
    )
    other = mislead(present, deployment, rng, config.wrong)
    recalled = Recalled(*(getattr(recalled, f.name)[other] for f in fields(Recalled)))
    trust, tells = efn.trusts(present, recalled, recent)
    right = torch.from_numpy(other == np.arange(len(other))).float()
    judged = F.binary_cross_entropy(trust, right)
    truth = [deployment[other], deployment] * 2
    identified = sum(F.mse_loss(told, t) for told, t in zip(tells, truth, strict=True))
    return judged + config.trust_identification * identified, {"train": judged.item()}


def mislead(present: Present, deployment: Tensor, rng: np.random.Generator, share: float) -> np.ndarray:
    """The row whose memory each is given, (B,): its own, or, in so large a share, that of the row of another deployment
    whose robot is nearest, so that it was recalled for nearly the same."""
    apart = torch.cdist(present.proprio, present.proprio)
    apart[(deployment[:, None] == deployment[None]).all(dim=-1)] = torch.inf
    own = np.arange(len(apart))
    return np.where(rng.random(len(own)) < share, apart.argmin(dim=1).numpy(), own)


def sketches_of(lessons: Lessons, rng: np.random.Generator) -> np.ndarray:
    """Some of those that are taught, (N, T d)."""
    rows = rng.choice(len(lessons), min(len(lessons), SAMPLED_SKETCHES), replace=False)
    return (lessons.taught["sketch"][rows] * lessons.taught["sketch_scale"][rows][..., None]).reshape(len(rows), -1)


def spread(values: np.ndarray) -> list[float]:
    """Standard deviation of each column; 1 for one that never changes and so tells nothing."""
    std = values.std(axis=0)
    return np.where(std > SMALLEST_SPREAD, std, 1.0).tolist()


def _distance(residual: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(residual, wanted, beta=RESIDUAL_SCALE)


@torch.inference_mode()
def validate(efn: Efn, checks: Lessons, config: TrainConfig) -> dict[str, float]:
    """Loss on deployments that were not learnt from: without a residual, with banks of each volume, and, last, of
    telling the deployment."""
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(checks), min(len(checks), MEASURED), replace=False)
    losses = {}
    for volume in config.volumes:
        present, recalled, wanted, deployment, _ = checks.batch(rows, rng, volume)
        losses["none"] = _distance(torch.zeros_like(wanted), wanted).item()
        features = efn.features(present, recalled)
        residual = checks.to_action(efn.bounded(efn.actor(features)[0], recalled), present, rows)
        losses[f"volume_{volume}"] = _distance(residual, wanted).item()
        losses["identification"] = F.mse_loss(efn.identify(features), deployment).item()
    return losses


@torch.inference_mode()
def validate_trust(efn: Efn, checks: Lessons, config: TrainConfig) -> dict[str, float]:
    """On deployments that were not learnt from, at the largest volume: loss with blind and with learned trust, and its
    mean, where the memory is right and, if there is one, where it is another deployment's."""
    rng = np.random.default_rng(config.seed)
    rows = rng.choice(len(checks), min(len(checks), MEASURED), replace=False)
    present, recalled, wanted, deployment, recent = checks.batch(rows, rng, max(config.volumes), recent=config.recent)
    losses = {}
    for name, share in {"right": 0.0, **({"wrong": 1.0} if len(checks.parts) > 1 else {})}.items():
        other = mislead(present, deployment, rng, share)
        memory = Recalled(*(getattr(recalled, f.name)[other] for f in fields(Recalled)))
        residual = checks.to_action(efn.residual(present, memory), present, rows)
        trust, _ = efn.trusts(present, memory, recent)
        losses[f"blind_{name}"] = _distance(residual, wanted).item()
        losses[f"trusting_{name}"] = _distance(trust[:, None, None] * residual, wanted).item()
        losses[f"trust_{name}"] = trust.mean().item()
    return losses
