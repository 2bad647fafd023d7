"""The training samples of many deployments, side by side, and batches of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from efn_ros.efn.actor import Efn
from efn_ros.efn.batching import MOTION, Present, Recalled, Recent
from efn_ros.efn.config import LATENT
from efn_ros.experiments.latent_residual.residual import latent_residual
from efn_ros.training.augmentation import Arm
from efn_ros.training.config import TrainConfig
from efn_ros.worlds.deployment import arm_coordinates

SAMPLED_SKETCHES = 3000  # of which the principal components are taken


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


def sketches_of(lessons: Lessons, rng: np.random.Generator) -> np.ndarray:
    """Some of those that are taught, (N, T d)."""
    rows = rng.choice(len(lessons), min(len(lessons), SAMPLED_SKETCHES), replace=False)
    return (lessons.taught["sketch"][rows] * lessons.taught["sketch_scale"][rows][..., None]).reshape(len(rows), -1)
