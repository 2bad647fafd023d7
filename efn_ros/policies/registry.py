"""The one place that knows the names of the backbones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from efn_ros.policies.policy import FrozenPolicy

if TYPE_CHECKING:
    pass


def load_policy(name: str, *, checkpoint: str | Path = "", threads: int = 1, **settings) -> FrozenPolicy:
    """Load the policy called `name`: "pocket_vla", "untrained" (the same network, at random), "constant" or "sine".

    checkpoint: a directory that `from_pretrained` loads; the one in the package if empty. threads: of inference.
    Backbones are imported here, when asked for. Raises ValueError for another name.
    """
    if name == "pocket_vla":
        from efn_ros.policies.pocket_vla.policy import PocketVlaPolicy

        return PocketVlaPolicy.from_pretrained(checkpoint, threads=threads)
    if name == "untrained":
        from efn_ros.policies.pocket_vla.policy import PocketVlaPolicy

        return PocketVlaPolicy.untrained(threads=threads, **settings)
    if name == "constant":
        from efn_ros.policies.constant import ConstantPolicy

        return ConstantPolicy(**settings)
    if name == "sine":
        from efn_ros.policies.sine import SinePolicy

        return SinePolicy(**settings)
    raise ValueError(f"policy {name!r} is unknown; there are 'pocket_vla', 'untrained', 'constant' and 'sine'")
