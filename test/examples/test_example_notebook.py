# SPDX-License-Identifier: MIT
"""The example notebook: a document without outputs, whose cells run one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "read_bank.ipynb"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def test_it_is_a_notebook_of_format_4_without_outputs(document):
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert document["metadata"]["kernelspec"]["language"] == "python"
    identifiers = [cell["id"] for cell in document["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell in document["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and isinstance(cell["source"], list)
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_its_cells_run_and_draw_a_real_bank(document, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.close("all")
    names: dict[str, Any] = {}
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert "revision 8: 8 rollouts" in capsys.readouterr().out
    assert len(plt.get_fignums()) == 3
    similarity, (first, other) = names["similarity"], (names["first"], names["other"])
    assert first.record.id != other.record.id and first.record.task == other.record.task
    assert similarity.shape == (first.record.decisions, other.record.decisions)
    assert similarity.max() <= 1.0001 and similarity.max() > similarity.min()
    plt.close("all")
