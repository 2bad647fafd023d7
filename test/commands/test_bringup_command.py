# SPDX-License-Identifier: MIT
"""`./efn bringup`: what is refused before any node starts."""

import pytest

from efn_ros.commands.main import main


@pytest.mark.parametrize(
    "words, message",
    [
        (["r2d2"], "graph 'r2d2' does not exist; choose one of agibot_g1, "),
        (["replay", "--dry-run"], "replay has no dry run"),
        (["replay", "--params-file", "missing.yaml"], "parameter file missing.yaml does not exist"),
    ],
)
def test_a_graph_that_cannot_be_read_is_a_usage_error_in_one_line(words, message, capsys):
    assert main(["bringup", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"efn bringup: {message}") and error.count("\n") == 1
