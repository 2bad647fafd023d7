# SPDX-License-Identifier: MIT
"""Checkpoints of the package by name, others by path."""

from pathlib import Path

import pytest

from efn_ros.resources import checkpoint_directory


@pytest.fixture
def packaged(tmp_path):
    for world in ("metaworld", "libero"):
        (tmp_path / world).mkdir()
    return tmp_path


@pytest.mark.parametrize("named", ["", "packaged", "packaged:metaworld"])
def test_the_default_world_is_meta_world(packaged, named):
    assert checkpoint_directory(named, packaged) == packaged / "metaworld"


def test_a_world_is_named_after_the_colon(packaged):
    assert checkpoint_directory("packaged:libero", packaged) == packaged / "libero"


def test_anything_else_is_a_path(packaged):
    assert checkpoint_directory("runs/packaged", packaged) == Path("runs/packaged")
    assert checkpoint_directory(Path("libero"), packaged) == Path("libero")
    assert checkpoint_directory("~/efn", packaged) == Path.home() / "efn"


def test_an_unknown_world_is_reported_with_the_known_ones(packaged):
    with pytest.raises(FileNotFoundError, match="no checkpoint 'packaged:mars'; choose one of packaged:libero, pack"):
        checkpoint_directory("packaged:mars", packaged)
