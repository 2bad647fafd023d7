# SPDX-License-Identifier: MIT
"""What a node makes of answers and requests that nobody meant: it says what is wrong, and the loop goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import rclpy
import torch
from efn_ros.msg import ActionChunk, CorrectedAction, ExperienceArray, PolicyStepStamped, QuantisedRows
from efn_ros.srv import RetrieveExperience
from harness import PACKAGED, RunningGraph
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sample_networks import CONFIG
from sample_rollouts import make_step
from std_srvs.srv import SetBool, Trigger

from efn_ros.efn.actor import Efn
from efn_ros.ros.conversions import chunk_from_msg, policy_step_to_msg
from efn_ros.ros.fields import to_time
from efn_ros.ros.qos import LATCHED_STEPS, STEPS

pytestmark = pytest.mark.integration

SIZES = {"action": 4, "proprio": 4, "horizon": 4}


def decide(graph: RunningGraph, steps, actions: list[CorrectedAction], number: int) -> CorrectedAction:
    """Publish decision `number` of an episode and wait for its corrected action, while the process lives on."""
    before = len(actions)
    step = make_step("e0", number, **SIZES).policy_step
    steps.publish(policy_step_to_msg(step, 1, 2, graph.client.node.get_clock().now().to_msg()))
    graph.spin_until(lambda: len(actions) > before, f"decision {number} got no corrected action", 20.0)
    assert graph.bringup.process("efn_corrector").poll() is None
    return actions[-1]


@contextlib.contextmanager
def threaded(node: Node) -> Iterator[Node]:
    """Yield a node beside another one, that spins in a thread of its own, so that its callbacks may wait."""
    other = rclpy.create_node(f"{node.get_name()}_memory", context=node.context, namespace=node.get_namespace())
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(other)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    try:
        yield other
    finally:
        executor.shutdown()
        thread.join()
        other.destroy_node()


@pytest.fixture
def corrector(start, run_mark) -> Iterator[Callable[..., tuple[RunningGraph, object, list[CorrectedAction]]]]:
    """corrector(answer, *parameters): efn_corrector alone, whose memory is played by `answer` (request, response)."""
    with contextlib.ExitStack() as ended:

        def begin(answer, *parameters, may_wait=False):
            graph = start({"efn_corrector": {"deadline_s": 5.0}}, *parameters, only=["efn_corrector"], on_exit="stop")
            node = graph.client.node
            memory = ended.enter_context(threaded(node)) if may_wait else node
            memory.create_service(RetrieveExperience, "retrieve", answer)
            steps = node.create_publisher(PolicyStepStamped, "policy_step", LATCHED_STEPS)
            actions = graph.collect(CorrectedAction, "corrected_action", STEPS)
            graph.spin_until(lambda: steps.get_subscription_count() > 0, "nobody listens", 20.0)
            return graph, steps, actions

        yield begin


def no_steps(request, response):
    """An answer that names the first of no steps."""
    response.success, response.selected = True, 0
    return response


def negative(request, response):
    response.success, response.selected = True, -7
    return response


def ragged(request, response):
    """Columns of one step and none."""
    response.steps, response.success, response.selected = (
        ExperienceArray(rollout_id=["r"], horizon=4, action_size=4),
        True,
        0,
    )
    return response


def oversized(request, response):
    """A sketch that says it has more rows than numbers."""
    response.success, response.sketch = True, QuantisedRows(rows=4_000_000_000, width=4_000_000_000)
    return response


def test_an_answer_that_contradicts_itself_gives_the_base_action_with_the_reason_again_and_again(corrector):
    bad = [no_steps, negative, ragged, oversized]
    graph, steps, actions = corrector(lambda request, response: bad[request.context.step % 4](request, response))
    for number in range(3 * len(bad)):
        action = decide(graph, steps, actions, number)
        assert action.mode == CorrectedAction.BASE
        assert action.reason.startswith("the answer of experience_retrieval cannot be used: "), bad[number % 4]
        np.testing.assert_array_equal(chunk_from_msg(action.corrected), np.clip(chunk_from_msg(action.base), -1, 1))


def test_a_network_that_does_not_fit_the_policy_gives_the_base_action_with_the_reason(corrector):
    """The packaged network of LIBERO, whose chunks have seven entries, beside a policy of four."""
    misfit = {"efn_corrector": {"checkpoint": "packaged:libero"}}
    graph, steps, actions = corrector(lambda request, response: response, PACKAGED, misfit)
    for number in range(3):
        action = decide(graph, steps, actions, number)
        assert action.mode == CorrectedAction.BASE
        assert action.reason == (
            "the correction failed: base action of the step has shape (4, 4); the EFN takes (4, 7)"
        )


def test_switched_off_a_network_that_needs_no_memory_adds_nothing_either(corrector, tmp_path):
    """Only a step that needs memory would notice that none was asked for."""
    step = make_step("e0", 0, **SIZES).policy_step
    config = replace(
        CONFIG, horizon=4, action_size=4, latent=step.latent.shape, sketch=step.sketch.q.shape, bound=(0.3,) * 4,
        proprio_mean=(0.0,) * 4, proprio_std=(1.0,) * 4, motion_std=(1.0,) * 4, use_memory=False,
    )  # fmt: skip
    network = Efn(config)
    torch.nn.init.normal_(network.head.weight)
    network.save_pretrained(tmp_path)
    parameters = {"efn_corrector": {"method": "learned", "checkpoint": str(tmp_path), "codes": ""}}
    graph, steps, actions = corrector(no_steps, parameters)
    enable = graph.client.node.create_client(SetBool, "efn_corrector/enable")
    assert decide(graph, steps, actions, 0).mode == CorrectedAction.CORRECTED
    graph.client.call(enable, SetBool.Request(data=False))
    action = decide(graph, steps, actions, 1)
    assert (action.mode, action.reason) == (CorrectedAction.BASE, "correction is off")
    graph.client.call(enable, SetBool.Request(data=True))
    assert decide(graph, steps, actions, 2).mode == CorrectedAction.CORRECTED


def test_a_late_answer_of_memory_leaves_a_stop_on_the_diagnostics(corrector):
    release = threading.Event()

    def answer_late(request, response):
        assert release.wait(60.0)
        return no_steps(request, response)

    graph, steps, actions = corrector(
        answer_late, {"efn_corrector": {"deadline_s": 0.2}, "**": {"diagnostics_period_s": 0.1}}, may_wait=True
    )

    def state() -> str:
        status = graph.client.statuses.get("efn_corrector: state")
        return status.message if status else ""

    assert decide(graph, steps, actions, 0).reason == "memory did not answer within its deadline"
    graph.spin_until(lambda: state().startswith("base only"), "lost memory is not reported", 20.0)
    graph.client.call(graph.client.node.create_client(Trigger, "efn_corrector/stop"), Trigger.Request())
    graph.spin_until(lambda: state() == "stopped by the operator", "the stop is not reported", 20.0)
    release.set()
    graph.spin_until(lambda: "memory responds again" in graph.log("efn_corrector"), "no late answer", 20.0)
    graph.spin_for(0.5)
    assert state() == "stopped by the operator"
    assert decide(graph, steps, actions, 1).mode == CorrectedAction.STOPPED


@pytest.mark.parametrize(
    "request_",
    [
        RetrieveExperience.Request(),
        RetrieveExperience.Request(key=QuantisedRows(rows=1, width=2**32 - 1)),
        RetrieveExperience.Request(latent_tokens=2**32 - 1, key=QuantisedRows(rows=1, width=0, scale=[0.0])),
    ],
    ids=["empty", "key of four billion entries", "latent of four billion tokens"],
)
def test_a_request_that_holds_no_decision_is_refused_in_words(start, request_):
    graph = start(only=["experience_retrieval"], on_exit="stop")
    client = graph.client.node.create_client(RetrieveExperience, "retrieve")
    for _ in range(3):
        response = graph.client.call(client, request_)
        assert not response.success and response.reason and response.selected == -1
    assert graph.bringup.process("experience_retrieval").poll() is None


def test_an_unforeseen_error_is_reported_and_the_next_decision_is_answered(corrector):
    """A chunk of four billion empty rows: to hold for so long takes more memory than there is."""
    graph, steps, actions = corrector(no_steps, {"**": {"diagnostics_period_s": 0.1}})
    message = policy_step_to_msg(make_step("e0", 0, **SIZES).policy_step, 1, 2, to_time(0))
    message.base = ActionChunk(horizon=2**32 - 1, action_size=0)
    steps.publish(message)

    def reported() -> bool:
        status = graph.client.statuses.get("efn_corrector: errors")
        return status is not None and "MemoryError" in status.message

    graph.spin_until(reported, "no error is reported", 20.0)
    assert decide(graph, steps, actions, 1).mode == CorrectedAction.BASE
