# SPDX-License-Identifier: MIT
"""Parts of other distributions: found by entry points, imported when they are asked for, refused with a remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efn_ros.policies import load_policy
from efn_ros.policies.registry import POLICIES
from efn_ros.runtime.factory import RESIDUALS, make_residual
from efn_ros.types import Recall
from efn_ros.worlds import Deployment, make_world, world_tasks

POLICY = """
from efn_ros.policies.constant import ConstantPolicy

class Still(ConstantPolicy):
    def __init__(self, checkpoint, threads):
        super().__init__(seed=7)
        self.loaded = checkpoint, threads
"""
WORLD = """
from dataclasses import replace
from efn_ros.worlds.metaworld import MetaWorld

class Moon(MetaWorld):
    spec = replace(MetaWorld.spec, name="moon", tasks={"land": "land the craft"})
"""
RESIDUAL = """
import numpy as np
from efn_ros.types import Proposal

def push(parameters):
    def propose(step, recall, past=()):
        return Proposal(np.full_like(step.base, parameters["gain"]))
    return propose
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(module, source, group, {name: object}): a distribution as pip leaves one on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(module: str, source: str, group: str, entries: dict[str, str]) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{value}" for name, value in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def test_a_policy_of_another_distribution_is_loaded_with_checkpoint_and_threads(install: Install):
    install("plugin_still", POLICY, POLICIES.group, {"still": "Still"})
    policy: Any = load_policy("still", checkpoint="weights", threads=3)
    assert policy.loaded == ("weights", 3) and policy.spec.fingerprint == "constant-7"


def test_a_plugin_is_imported_only_when_it_is_asked_for_and_replaces_no_policy_of_the_package(install: Install):
    install("plugin_bomb", "raise RuntimeError('imported')", POLICIES.group, {"bomb": "x", "constant": "x"})
    assert load_policy("constant").spec.name == "constant"
    names = POLICIES.names()
    assert names[:4] == ["pocket_vla", "untrained", "constant", "sine"] and "bomb" in names[4:]
    assert names.count("constant") == 1
    assert "plugin_bomb" not in sys.modules


def test_an_unknown_name_is_answered_with_all_that_exist(install: Install):
    install("plugin_other", POLICY, POLICIES.group, {"still": "Still"})
    with pytest.raises(ValueError, match="policy 'gato' is unknown; choose 'pocket_vla', .*, 'sine' or 'still'"):
        load_policy("gato")


def test_a_plugin_that_cannot_be_imported_is_refused_by_its_name(install: Install):
    install("plugin_broken", "import a_package_that_is_not_here", POLICIES.group, {"broken": "x"})
    with pytest.raises(
        ValueError,
        match="policy 'broken', plugin_broken:x of plugin-broken, cannot be imported "
        r"\(ModuleNotFoundError: No module named 'a_package_that_is_not_here'\); install what it needs",
    ):
        load_policy("broken")


def test_a_plugin_whose_entry_point_names_nothing_is_refused(install: Install):
    install("plugin_empty", "", POLICIES.group, {"empty": "make"})
    with pytest.raises(ValueError, match="policy 'empty', .*, cannot be imported .AttributeError: .*'make'"):
        load_policy("empty")


@pytest.mark.parametrize(
    ("made", "lacks"),
    [
        ("None", "a NoneType, which is no FrozenPolicy: it has no 'spec' of type PolicySpec"),
        ("type('Spec', (), {'spec': 'a string'})()", "a Spec, which is no FrozenPolicy: it has no 'spec'"),
        ("type('Half', (), vars(ConstantPolicy()))()", "a Half, .* it has no 'embed_instruction' of type Callable"),
    ],
)
def test_what_is_no_policy_is_refused_with_what_it_lacks(install: Install, made: str, lacks: str):
    source = (
        f"from efn_ros.policies.constant import ConstantPolicy\n\ndef make(checkpoint, threads):\n    return {made}\n"
    )
    install("plugin_wrong", source, POLICIES.group, {"wrong": "make"})
    with pytest.raises(ValueError, match=f"policy 'wrong', plugin_wrong:make of plugin-wrong, made {lacks}"):
        load_policy("wrong")


def test_an_error_of_the_plugin_itself_is_passed_on(install: Install):
    source = "def make(checkpoint, threads):\n    raise FileNotFoundError(f'no checkpoint in {checkpoint}')\n"
    install("plugin_strict", source, POLICIES.group, {"strict": "make"})
    with pytest.raises(FileNotFoundError, match="no checkpoint in nowhere"):
        load_policy("strict", checkpoint="nowhere")


def test_a_world_of_another_distribution_is_built_and_names_its_tasks(install: Install):
    install("plugin_moon", WORLD, "efn_ros.worlds", {"moon": "Moon"})
    deployment = Deployment(gain=1.2)
    world = make_world("moon", deployment=deployment, image_size=32)
    assert world.spec.name == "moon" and world.deployment == deployment
    assert world_tasks("moon") == {"land": "land the craft"}
    with pytest.raises(ValueError, match="world 'mars' is unknown; choose 'metaworld', 'libero' or 'moon'"):
        world_tasks("mars")


def test_a_residual_of_another_distribution_is_a_method_and_gets_the_parameters(install: Install):
    install("plugin_push", RESIDUAL, RESIDUALS.group, {"push": "push"})
    residual = make_residual({"method": "push", "gain": 0.25})
    step: Any = type("Step", (), {"base": np.zeros((2, 3), np.float32)})
    assert (residual(step, Recall()).residual == 0.25).all()
