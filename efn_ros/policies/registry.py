# SPDX-License-Identifier: MIT
"""Names of the policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from efn_ros.plugins import PluginGroup
from efn_ros.policies.policy import FrozenPolicy, PolicySpec

# An entry point of another distribution names a function (checkpoint: str | Path, threads: int) -> FrozenPolicy.
POLICIES = PluginGroup(
    group="efn_ros.policies",
    kind="policy",
    own=("pocket_vla", "untrained", "constant", "sine"),
    interface="FrozenPolicy",
    members={"spec": PolicySpec} | dict.fromkeys(("embed_instruction", "infer", "decode", "decoder"), Callable),
)


def load_policy(name: str, *, checkpoint: str | Path = "", threads: int = 1, **settings: Any) -> FrozenPolicy:
    """Load a policy; its backbone is imported only here, so that the others need not be installed.

    Args:
        name: "pocket_vla", "untrained" (the same network with random weights), "constant", "sine", or a policy of
            another distribution, by its entry point in `POLICIES`.
        checkpoint: Of "pocket_vla", as `checkpoint_directory` takes it; of another distribution, as that takes it.
        threads: Of inference on the CPU.
        **settings: Of a policy without a checkpoint.

    Raises:
        ValueError: The name is unknown, or the policy of another distribution cannot be used.
        FileNotFoundError: There is no checkpoint.
    """
    if name in ("pocket_vla", "untrained"):
        from efn_ros.policies.pocket_vla.policy import PocketVlaPolicy

        if name == "untrained":
            return PocketVlaPolicy.untrained(threads=threads, **settings)
        return PocketVlaPolicy.from_pretrained(checkpoint, threads=threads)
    if name == "constant":
        from efn_ros.policies.constant import ConstantPolicy

        return ConstantPolicy(**settings)
    if name == "sine":
        from efn_ros.policies.sine import SinePolicy

        return SinePolicy(**settings)
    return POLICIES.make(name, checkpoint=checkpoint, threads=threads)
