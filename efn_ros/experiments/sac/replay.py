"""Replay: decisions in preallocated arrays, drawn at random, kept across restarts. No ROS, no torch, nothing pickled.

What is stored is a tree: arrays, float32 mostly, in tuples, lists, dicts and dataclasses, each with a leading axis of
rows. An array's name is its path in the tree, such as "observation.0.latent".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efn_ros.training.state import read_state, write_state

Tree = Any


@dataclass(frozen=True)
class Transition:
    """B decisions, as appendix B stores them: (x, x~, y, r, d).

    observation, next_observation: tuples of what the actor takes, for the EFN (`Present`, `Recalled`): x and x~ before
    and after the decision. action: y, the residual that was executed, (B, ..., A). reward: r, (B,). done: d, bool (B,),
    True where the world ended the episode, not where time did. reference: int64 (B, 2), which remembered rollout was
    followed and its step: frozen for the episode and advanced step by step, so that a reward can be told again.
    return_to_go: (B,), discounted sum of the rewards from here to the episode's end, where a warm start wants it.
    """

    observation: Tree
    action: Any
    reward: Any
    next_observation: Tree
    done: Any
    reference: Any = None
    return_to_go: Any = None


def tree_map(function: Callable[[str, Any], Any], tree: Tree, name: str = "") -> Tree:
    """The same tree with `function(name, leaf)` for every leaf; None stays None."""

    def branch(key: object, value: Tree) -> Tree:
        return tree_map(function, value, f"{name}.{key}" if name else str(key))

    if tree is None:
        return None
    if is_dataclass(tree):
        return replace(tree, **{f.name: branch(f.name, getattr(tree, f.name)) for f in fields(tree)})
    if isinstance(tree, dict):
        return {key: branch(key, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(branch(i, value) for i, value in enumerate(tree))
    return function(name, tree)


def leaves(tree: Tree) -> dict[str, Any]:
    """The leaves by name."""
    found: dict[str, Any] = {}
    tree_map(found.setdefault, tree)
    return found


class Replay:
    """A ring: when it is full, the oldest rows give way."""

    def __init__(self, example: Tree, capacity: int, seed: int = 0) -> None:
        """example: any number of rows, of which structure, shapes and dtypes are taken. capacity: in rows.

        Raises ValueError for a capacity below 1 and for an array without rows.
        """
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1 row")
        arrays = {name: np.asarray(leaf) for name, leaf in leaves(example).items()}
        for name, array in arrays.items():
            if not array.ndim:
                raise ValueError(f"{name} of the example is a single number; give it a leading axis of rows")
        self.capacity = capacity
        self._names = tree_map(lambda name, _: name, example)
        self._arrays = {name: np.zeros((capacity, *a.shape[1:]), a.dtype) for name, a in arrays.items()}
        self._next = self._size = 0
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._size

    def insert(self, rows: Tree) -> None:
        """Add rows, oldest first; all of them or, where it raises ValueError, none.

        Refused by name: arrays that the example lacks or that are missing, other shapes or kinds of numbers, NaN, Inf.
        """
        found = {name: np.asarray(leaf) for name, leaf in leaves(rows).items()}
        if found.keys() != self._arrays.keys():
            wrong = sorted(found.keys() ^ self._arrays.keys())
            raise ValueError(f"rows hold {wrong[0]} or the example does, not both: both need the same arrays")
        count = len(np.atleast_1d(next(iter(found.values()))))
        for name, store in self._arrays.items():
            array, shape = found[name], (count, *store.shape[1:])
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; {shape} is stored")
            if not np.can_cast(array.dtype, store.dtype, "same_kind"):
                raise ValueError(f"{name} is {array.dtype}, which does not go into {store.dtype}: convert it")
            with np.errstate(over="ignore"):  # what is too large becomes Inf, which is refused
                found[name] = array.astype(store.dtype, copy=False)
            if store.dtype.kind == "f" and not np.isfinite(found[name]).all():
                raise ValueError(f"{name} holds NaN or Inf as {store.dtype}: leave out that decision")
        kept = min(count, self.capacity)
        slots = (self._next + np.arange(count - kept, count)) % self.capacity
        for name, store in self._arrays.items():
            store[slots] = found[name][count - kept :]
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def sample(self, count: int) -> Tree:
        """`count` rows drawn evenly with replacement, copied. Raises ValueError where there are none."""
        if not self._size:
            raise ValueError("nothing to sample from: insert rows first")
        rows = self._rng.integers(self._size, size=count)
        return tree_map(lambda _, name: self._arrays[name].take(rows, axis=0), self._names)

    def save(self, path: str | Path) -> None:
        """Write rows and the state of the draw to one file, which appears as a whole or not at all."""
        facts = {"capacity": self.capacity, "next": self._next, "rng": self._rng.bit_generator.state}
        write_state(Path(path), {name: store[: self._size] for name, store in self._arrays.items()}, facts)

    def load(self, path: str | Path) -> None:
        """Become what was saved, so that what is sampled next is what would have been.

        Raises FileNotFoundError, and ValueError for a file that is none or was saved with another example or capacity.
        """
        arrays, facts = read_state(Path(path))
        if facts.get("capacity") != self.capacity:
            raise ValueError(f"{path} was saved with capacity {facts.get('capacity')}, not {self.capacity}")
        here, there = ({n: (a.shape[1:], a.dtype) for n, a in d.items()} for d in (self._arrays, arrays))
        for name in sorted({*here, *there}):
            if here.get(name) != there.get(name):
                raise ValueError(f"{path} does not fit: {name} is {there.get(name)}, not {here.get(name)}")
        self._next, self._rng.bit_generator.state = facts["next"], facts["rng"]
        for name, array in arrays.items():
            self._size = len(array)
            self._arrays[name][: self._size] = array


class SymmetricReplay:
    """Half of each batch from successes, once there are some (PLD); both hold rows of one example."""

    def __init__(self, online: Replay, successes: Replay) -> None:
        self.online, self.successes = online, successes

    def sample(self, count: int) -> Tree:
        """`count` rows, of which floor(count / 2), the last ones, are successes; all come from the one that is not
        empty where the other is. Raises ValueError where both are."""
        if not len(self.online) or not len(self.successes):
            return (self.online if not len(self.successes) else self.successes).sample(count)
        half = leaves(self.successes.sample(count // 2))
        rest = self.online.sample(count - count // 2)
        return tree_map(lambda name, array: np.concatenate([array, half[name]]), rest)
