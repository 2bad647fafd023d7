# SPDX-License-Identifier: MIT
"""Atomic and durable replacement of files."""

import os

import pytest

from efn_ros import files


def test_a_file_is_replaced_atomically_without_leftovers(tmp_path):
    path = tmp_path / "state"
    files.write(path, b"old")
    files.write(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "state"
    files.write(path, b"old")

    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="no space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"


def test_content_and_directory_are_synced_in_that_order(tmp_path, monkeypatch):
    done = []
    sync, replace = files.sync, os.replace
    monkeypatch.setattr(files, "sync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    files.write(tmp_path / "state", b"new")
    assert done == [".state.tmp", "replace", tmp_path.name]
