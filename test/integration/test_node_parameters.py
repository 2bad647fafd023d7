# SPDX-License-Identifier: MIT
"""Parameters of one node as ROS 2 hands them over: old names, options of an experiment, ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import rclpy
from rclpy.exceptions import InvalidParameterValueException, ParameterNotDeclaredException

from efn_ros.commands._reference import executables, node_class
from efn_ros.ros.node import EfnNode
from efn_ros.runtime.renamed import RENAMED

pytestmark = pytest.mark.integration


@pytest.fixture
def make() -> Iterator[Callable[..., EfnNode]]:
    """make(executable, {name: value}): the node as its `main` makes it, with `-p name:=value`."""
    made = []

    def make(executable: str, parameters: dict[str, str] | None = None) -> EfnNode:
        words = [word for name, value in (parameters or {}).items() for word in ("-p", f"{name}:={value}")]
        rclpy.init(args=["--ros-args", *words])
        node = node_class(executable)(executable)
        made.append(node)
        return node

    yield make
    for node in made:
        node.destroy_node()
    rclpy.try_shutdown()


@pytest.mark.parametrize("executable", sorted(RENAMED))
def test_every_old_name_is_read_under_the_present_one(make, executable):
    present = {p.name: p.default for p in node_class(executable).PARAMETERS}
    old = {}
    for before, after in RENAMED[executable].items():
        for name in (n for n in present if n == after or (after.endswith(".") and n.startswith(after))):
            old[name.replace(after, before, 1)] = name
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.01, list: lambda v: [0.5]}
    values = {before: other[type(present[after])](present[after]) for before, after in old.items()}
    node = make(executable, {name: str(value).lower() for name, value in values.items()})
    assert old
    for before, after in old.items():
        assert node.parameter(after) == pytest.approx(values[before]), after
        with pytest.raises(ParameterNotDeclaredException):
            node.parameter(before)


def test_an_old_value_is_read_as_the_present_one(make):
    assert make("vla_policy", {"policy": "sway"}).parameter("policy") == "sine"


def test_options_of_an_experiment_are_parameters_of_the_node_that_is_given_them(make):
    node = make("experience_retrieval", {"experiment": "image_reranking", "experiment_options.camera": "front"})
    assert node.parameters()["experiment_options.camera"] == "front"


def test_a_number_out_of_range_is_refused_by_name(make):
    with pytest.raises(InvalidParameterValueException, match="gain"):
        make("efn_corrector", {"gain": "7.0"})


@pytest.mark.parametrize("executable", executables())
def test_every_parameter_is_described_and_cannot_be_set_while_the_node_runs(make, executable):
    node = make(executable)
    for parameter in node.PARAMETERS:
        descriptor = node.describe_parameter(parameter.name)
        assert descriptor.description and descriptor.read_only, parameter.name


def test_a_node_reports_under_the_name_that_its_graph_gave_it(make):
    rclpy.init(args=["--ros-args", "-r", "__node:=metaworld_bridge"])
    node = node_class("sim_bridge")("sim_bridge")
    names = [status.name for status in node.diagnostics.message(node.get_clock().now().to_msg(), "active").status]
    node.destroy_node()
    assert names and all(name.startswith("metaworld_bridge: ") for name in names)


def test_an_experiment_with_an_executable_of_its_own_is_refused_by_the_plain_one(make):
    node = make("experience_retrieval", {"experiment": "image_reranking"})
    with pytest.raises(ValueError, match="set executable: image_reranking"):
        node.make_retriever(None)
