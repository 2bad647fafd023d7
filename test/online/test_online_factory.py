# SPDX-License-Identifier: MIT
"""The learner of a running graph, from the parameters of its nodes."""

import pytest

from efn_ros.online.factory import make_learner
from efn_ros.runtime.graph import Graph

NODES = ("efn_trainer", "experience_retrieval", "efn_corrector")


def parameters(bank):
    graph = Graph.load("metaworld_sim", learn=True, bank=str(bank))
    return {node: graph.parameters(node) for node in NODES}


def test_a_learner_is_built_from_the_packaged_parameters(tmp_path):
    """Its settings, codes among them, can be written to the report of a candidate."""
    learner = make_learner(*parameters(tmp_path / "bank").values(), pause=lambda: None)
    assert learner.registry.directory == tmp_path / "bank" / "efn"
    assert learner.advance()[0].startswith("nothing to validate yet")


@pytest.mark.parametrize(
    "node, change, message",
    [
        ("efn_corrector", {"method": "recalled_action"}, "corrects by 'recalled_action'; only method 'learned'"),
        ("efn_corrector", {"experiment": "critic_disagreement"}, "corrects by 'critic_disagreement'"),
        ("efn_corrector", {"gain": 0.0}, "gain of efn_corrector is 0.0"),
        ("efn_trainer", {"rule": "always"}, "rule is 'always'; choose one of 'operator', 'when accepted'"),
        ("efn_trainer", {"min_improvement": 2.0}, "min_improvement is 2.0"),
    ],
)
def test_parameters_that_do_not_fit_are_named(tmp_path, node, change, message):
    given = parameters(tmp_path / "bank")
    with pytest.raises(ValueError, match=message):
        make_learner(*{**given, node: {**given[node], **change}}.values())
