# SPDX-License-Identifier: MIT
"""The lifecycle of every node, by the standard services, and what is refused at start."""

from __future__ import annotations

import pytest
from harness import METAWORLD_SIM, READY_S, RunningGraph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

pytestmark = [pytest.mark.integration, pytest.mark.alone]


class Lifecycles:
    """The lifecycle services of every node, as a manager uses them."""

    def __init__(self, graph: RunningGraph) -> None:
        self._client, self._change, self._get = graph.client, {}, {}
        for name in (node.name for node in graph.graph.nodes):
            self._change[name] = graph.client.node.create_client(ChangeState, f"{name}/change_state")
            self._get[name] = graph.client.node.create_client(GetState, f"{name}/get_state")

    def states(self) -> set[str]:
        responses = [self._client.call(client, GetState.Request(), READY_S) for client in self._get.values()]
        return {response.current_state.label for response in responses}

    def change(self, transition: int) -> list[str]:
        """The nodes that refused."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return [n for n, client in self._change.items() if not self._client.call(client, request, READY_S).success]


@pytest.mark.simulator
def test_every_node_goes_through_its_lifecycle_twice_and_works(start):
    graph = start(ready=False, autostart=False)
    manager = Lifecycles(graph)
    assert len(graph.graph.nodes) == len(METAWORLD_SIM)
    assert manager.states() == {"unconfigured"}
    graph.spin_for(1.0)
    assert manager.states() == {"unconfigured"}, "a node started by itself"

    for transition, state in (
        (Transition.TRANSITION_CONFIGURE, "inactive"),
        (Transition.TRANSITION_ACTIVATE, "active"),
        (Transition.TRANSITION_DEACTIVATE, "inactive"),
        (Transition.TRANSITION_ACTIVATE, "active"),
        (Transition.TRANSITION_DEACTIVATE, "inactive"),
        (Transition.TRANSITION_CLEANUP, "unconfigured"),
        (Transition.TRANSITION_CONFIGURE, "inactive"),
        (Transition.TRANSITION_ACTIVATE, "active"),
    ):
        assert not manager.change(transition), state
        assert manager.states() == {state}

    record = graph.run_episode("drawer-close")
    assert record.state.saved and len(record.actions) == record.state.decisions
    assert len(graph.rollouts()) == 1

    assert not manager.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert manager.states() == {"finalized"}


@pytest.mark.simulator
def test_a_node_that_is_not_active_passes_nothing_on(start):
    graph = start(ready=False, autostart=False)
    manager = Lifecycles(graph)
    assert not manager.change(Transition.TRANSITION_CONFIGURE)
    with pytest.raises(RuntimeError, match="episode_manager is not active"):
        graph.start_episode()
    assert not manager.change(Transition.TRANSITION_ACTIVATE)
    graph.start_episode()
    graph.spin_until(lambda: len(graph.client._record.actions) > 2, "no actions")
    assert not manager.change(Transition.TRANSITION_DEACTIVATE)
    graph.spin_for(0.5)
    passed = len(graph.client._record.actions)
    graph.spin_for(2.5)
    assert len(graph.client._record.actions) == passed


def test_a_node_that_cannot_be_configured_stays_unconfigured_with_the_reason(start):
    limits = {"efn_corrector": {"limits.low": [-1.0, -1.0]}}
    graph = start(limits, ready=False, autostart=False, only=["efn_corrector"])
    manager = Lifecycles(graph)
    assert manager.change(Transition.TRANSITION_CONFIGURE) == ["efn_corrector"]
    assert manager.states() == {"unconfigured"}

    def said() -> bool:
        status = graph.client.statuses.get("efn_corrector: state")
        return status is not None and "limit 'high' has 4 entries, but an action has 2" in status.message

    graph.spin_until(said, "nothing is said of it on /diagnostics", 30.0)


@pytest.mark.parametrize(
    ("executable", "parameter", "value", "words"),
    [
        ("vla_policy", "policy", "nonsense", "policy 'nonsense' is unknown; choose"),
        ("vla_policy", "horizon", 0, "horizon"),
        ("metaworld_bridge", "pacing", "nonsense", "pacing is 'nonsense'; it must be 'lockstep' or 'realtime'"),
        ("metaworld_bridge", "world", "nonsense", "world 'nonsense' is unknown; choose"),
        ("efn_corrector", "gain", 7.0, "gain"),
        ("efn_corrector", "rate_hz", "fast", "rate_hz"),
        ("experience_retrieval", "temperature", 0.0, "temperature"),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_exit_code_1_and_its_name(start, executable, parameter, value, words):
    graph = start({executable: {parameter: value}}, ready=False, only=[executable], on_exit="stop")
    with pytest.raises(RuntimeError, match=f"{executable} died with exit code 1; the graph stops"):
        graph.spin_until(lambda: False, "the node has not ended", READY_S)
    assert words in graph.log(executable), graph.log(executable)
