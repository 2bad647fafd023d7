# SPDX-License-Identifier: MIT
"""A replay buffer: decisions in preallocated arrays, sampled at random, saved across restarts.

It holds trees of arrays: tuples, lists, dicts and dataclasses, whose arrays have a leading axis of rows. The name of an
array is its path in the tree, such as "observation.0.latent". It needs neither ROS nor torch, and pickles no object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efn_ros.training.state import read_state, write_state

Tree = Any


@dataclass(frozen=True)
class Transition:
    """B decisions, as arrays, tensors or the names of arrays.

    Source: appendix B, (x, x~, y, r, d).
    """

    observation: Tree  # what the actor takes before the decision; for the EFN an `ActorInput`: x and x~
    action: Any  # y, the residual that was executed, (B, ..., A)
    reward: Any  # r, (B,)
    next_observation: Tree  # what the actor takes after it
    done: Any  # d, bool (B,), True where the world ended the episode, not where time ran out
    reference: Any = None  # int64 (B, 2), index of the followed rollout and its step
    return_to_go: Any = None  # discounted sum of the rewards up to the end of the episode, (B,), for a warm start


def tree_map(function: Callable[[str, Any], Any], tree: Tree, name: str = "") -> Tree:
    """Return the same tree with `function(name, leaf)` for each leaf; None stays None."""

    def branch(key: object, value: Tree) -> Tree:
        return tree_map(function, value, f"{name}.{key}" if name else str(key))

    if tree is None:
        return None
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{f.name: branch(f.name, getattr(tree, f.name)) for f in fields(tree)})
    if isinstance(tree, dict):
        return {key: branch(key, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(branch(i, value) for i, value in enumerate(tree))
    return function(name, tree)


def leaves(tree: Tree) -> dict[str, Any]:
    """Return the leaves by name."""
    found: dict[str, Any] = {}
    tree_map(found.setdefault, tree)
    return found


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Return the rows of all trees, one tree after the other."""
    parts = [leaves(tree) for tree in trees]
    return tree_map(lambda name, _: np.concatenate([part[name] for part in parts]), trees[0])


class Replay:
    """A ring buffer: when it is full, new rows take the place of the oldest."""

    def __init__(self, example: Tree, capacity: int, seed: int = 0) -> None:
        """Allocate the arrays.

        Args:
            example: Any number of rows, with the structure, shapes and dtypes of all.
            capacity: In rows.
            seed: Of sampling.

        Raises:
            ValueError: The capacity is below 1, or an array has no axis of rows.
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
        """Add rows, oldest first; all of them or, on an error, none.

        Raises:
            ValueError: The rows have other arrays, shapes or kinds of numbers than the example, or hold NaN or Inf; the
                message names the array.
        """
        found = {name: np.asarray(leaf) for name, leaf in leaves(rows).items()}
        if found.keys() != self._arrays.keys():
            name = min(found.keys() ^ self._arrays.keys())
            raise ValueError(f"rows hold {name} or the example does, not both: both need the same arrays")
        count = len(np.atleast_1d(next(iter(found.values()))))
        for name, store in self._arrays.items():
            array, shape = found[name], (count, *store.shape[1:])
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; {shape} is stored")
            if not np.can_cast(array.dtype, store.dtype, "same_kind"):
                raise ValueError(f"{name} is {array.dtype}, which does not go into {store.dtype}: convert it")
            with np.errstate(over="ignore"):  # what is too large becomes Inf, which is an error
                found[name] = array.astype(store.dtype, copy=False)
            if store.dtype.kind == "f" and not np.isfinite(found[name]).all():
                raise ValueError(f"{name} holds NaN or Inf as {store.dtype}: leave out that decision")
        first = max(count - self.capacity, 0)  # the rows before it would be overwritten at once
        slots = (self._next + np.arange(first, count)) % self.capacity
        for name, store in self._arrays.items():
            store[slots] = found[name][first:]
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def sample(self, count: int) -> Tree:
        """Return `count` rows drawn uniformly with replacement, copied.

        Raises:
            ValueError: The buffer is empty.
        """
        if not self._size:
            raise ValueError("the replay is empty: insert rows first")
        rows = self._rng.integers(self._size, size=count)
        return tree_map(lambda _, name: self._arrays[name].take(rows, axis=0), self._names)

    def save(self, path: str | Path) -> None:
        """Write rows and the state of sampling to one file, which appears whole or not at all."""
        facts = {"capacity": self.capacity, "next": self._next, "rng": self._rng.bit_generator.state}
        write_state(Path(path), {name: store[: self._size] for name, store in self._arrays.items()}, facts)

    def load(self, path: str | Path) -> None:
        """Restore what was saved, so that the next samples are the same.

        Raises:
            FileNotFoundError: There is no file.
            ValueError: It is damaged, or was saved with another example or capacity.
        """
        arrays, facts = read_state(Path(path))
        if facts.get("capacity") != self.capacity:
            raise ValueError(f"{path} was saved with capacity {facts.get('capacity')}, not {self.capacity}")
        own, saved = ({n: (a.shape[1:], a.dtype) for n, a in d.items()} for d in (self._arrays, arrays))
        for name in sorted({*own, *saved}):
            if own.get(name) != saved.get(name):
                raise ValueError(f"{path} does not fit: {name} is {saved.get(name)}, not {own.get(name)}")
        self._next, self._rng.bit_generator.state = facts["next"], facts["rng"]
        for name, array in arrays.items():
            self._size = len(array)
            self._arrays[name][: self._size] = array


class SymmetricReplay:
    """A replay that takes half of each batch from successes, once it has some.

    Source: arXiv:2511.00091 (PLD).
    """

    def __init__(self, online: Replay, successes: Replay) -> None:
        """Sample from two buffers, both with the same example."""
        self.online, self.successes = online, successes

    def sample(self, count: int) -> Tree:
        """Return `count` rows, the last floor(count / 2) of them successes; all from one buffer if the other is empty.

        Raises:
            ValueError: Both buffers are empty.
        """
        if not len(self.online) or not len(self.successes):
            return (self.online if not len(self.successes) else self.successes).sample(count)
        successes = self.successes.sample(count // 2)
        return concatenate([self.online.sample(count - count // 2), successes])
