"""Graphs as data: what overrides what, what is refused, and that every shipped file fits the nodes it configures."""

import importlib
import inspect
import math

import numpy as np
import pytest
import yaml

from efn_ros.resources import config_directory
from efn_ros.ros.node import COMMON, EfnNode
from efn_ros.runtime.factory import make_corrector, make_deployment
from efn_ros.runtime.graph import RESTART, STOP, Graph, enclave_arguments, robots
from efn_ros.worlds.deployment import Deployment

WORLDS = sorted((config_directory() / "worlds").glob("agibot_g1_*.yaml"))
ROBOTS = ("agibot_g1", "arm_7dof", "libero_sim", "replay")
DEPLOYMENTS = sorted(path.stem for path in (config_directory() / "deployments").glob("*.yaml"))


@pytest.fixture
def overlay(tmp_path):
    """Writes a parameter file: overlay({"/efn/x": {...}}) -> its path."""
    written = []

    def write(sections, text=None):
        written.append(tmp_path / f"overlay_{len(written)}.yaml")
        sections = {name: {"ros__parameters": values} for name, values in (sections or {}).items()}
        written[-1].write_text(yaml.safe_dump(sections) if text is None else text)
        return written[-1]

    return write


# What overrides what


def test_an_overlay_replaces_single_entries(overlay):
    plain = Graph.load("libero_sim")
    graph = Graph.load("libero_sim", [overlay({"/efn/efn_corrector": {"gain": 0.25}})])
    assert graph.parameters("efn_corrector") == {**plain.parameters("efn_corrector"), "gain": 0.25}
    assert graph.parameters("vla_policy") == plain.parameters("vla_policy")


def test_a_later_overlay_wins(overlay):
    first = overlay({"/efn/efn_corrector": {"gain": 0.25, "min_confidence": 0.1}})
    second = overlay({"/efn/efn_corrector": {"gain": 0.75}})
    parameters = Graph.load("libero_sim", [first, str(second)]).parameters("efn_corrector")
    assert (parameters["gain"], parameters["min_confidence"]) == (0.75, 0.1)


def test_what_is_said_of_a_node_wins_over_what_is_said_of_all(overlay):
    everywhere = overlay({"/**": {"gain": 0.1, "bank": "elsewhere"}})
    graph = Graph.load("libero_sim", [everywhere])
    assert graph.parameters("efn_corrector")["gain"] == 1.0
    assert all(node.parameters["bank"] == "elsewhere" for node in graph.nodes)


def test_a_parameter_given_by_name_wins_over_every_file_and_goes_to_every_node(overlay):
    path = overlay({"/**": {"bank": "elsewhere"}, "/efn/bank_writer": {"bank": "there"}})
    graph = Graph.load("libero_sim", [path], bank="here", use_sim_time=True)
    assert all((node.parameters["bank"], node.parameters["use_sim_time"]) == ("here", True) for node in graph.nodes)


@pytest.mark.parametrize(
    "name", ["/efn/efn_corrector", "/site/robot_7/efn_corrector", "efn_corrector", "/**/efn_corrector"]
)
def test_the_namespace_of_a_section_does_not_matter(overlay, name):
    assert Graph.load("libero_sim", [overlay({name: {"gain": 0.25}})]).parameters("efn_corrector")["gain"] == 0.25


@pytest.mark.parametrize(
    "values",
    [
        {"deployment": {"seed": 3, "yaw": 0.5}},
        {"deployment.seed": 3, "deployment.yaw": 0.5},
        {"deployment": {"seed": 3}, "deployment.yaw": 0.5},
    ],
)
def test_nested_parameters_and_dotted_names_are_the_same(overlay, values):
    parameters = Graph.load("libero_sim", [overlay({"/efn/libero_bridge": values})]).parameters("libero_bridge")
    assert (parameters["deployment.seed"], parameters["deployment.yaw"], parameters["deployment.gain"]) == (3, 0.5, 0.0)
    assert "deployment" not in parameters


def test_an_overlay_may_change_the_graph_itself(overlay):
    names = [node.executable for node in Graph.load("libero_sim").nodes]
    path = overlay({"/efn/graph": {"nodes": [*names, "gamepad"], "on_exit": "stop"}, "/efn/gamepad": {"port": 3}})
    graph = Graph.load("libero_sim", [path])
    assert [node.executable for node in graph.nodes] == [*names, "gamepad"]
    assert graph.on_exit == STOP and graph.parameters("gamepad")["port"] == 3


def test_remappings_are_pairs_of_the_node_they_are_for(overlay):
    path = overlay({"/efn/graph": {"remap.vla_policy": ["observation:=/camera/observation", "a:=b"]}})
    nodes = {node.executable: node for node in Graph.load("libero_sim", [path]).nodes}
    assert nodes["vla_policy"].remappings == (("observation", "/camera/observation"), ("a", "b"))
    assert all(node.remappings == () for name, node in nodes.items() if name != "vla_policy")


@pytest.mark.parametrize("learn", [True, False])
def test_a_node_behind_a_flag_is_part_of_the_graph_only_where_the_flag_is_set(overlay, learn):
    graph = Graph.load("libero_sim", [overlay({"/**": {"learn": learn}, "/efn/efn_trainer": {"epochs": 2}})])
    plain = [node.executable for node in Graph.load("libero_sim").nodes]
    assert "efn_trainer" not in plain
    assert [node.executable for node in graph.nodes] == plain + ["efn_trainer"] * learn
    assert not learn or graph.parameters("efn_trainer")["epochs"] == 2


def test_an_empty_overlay_changes_nothing(overlay):
    assert Graph.load("libero_sim", [overlay(None, text="# nothing\n")]) == Graph.load("libero_sim")


# What is refused


def test_an_unknown_robot_is_named():
    with pytest.raises(FileNotFoundError, match="there is no parameter file .*/r2d2.yaml"):
        Graph.load("r2d2")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no parameter file {tmp_path}/missing.yaml"):
        Graph.load("libero_sim", [tmp_path / "missing.yaml"])


def test_parameters_of_a_node_that_is_not_in_the_graph_are_named(overlay):
    with pytest.raises(ValueError, match=r"graph of 'replay': .* parameters for \['libero_bridge'\]"):
        Graph.load("replay", [overlay({"/efn/libero_bridge": {"pacing": "realtime"}})])


def test_another_way_to_end_is_named(overlay):
    with pytest.raises(ValueError, match="on_exit is 'explode'; it must be 'restart' or 'stop'"):
        Graph.load("libero_sim", [overlay({"/efn/graph": {"on_exit": "explode"}})])


@pytest.mark.parametrize(
    "text, message",
    [
        ("/efn/efn_corrector: {gain: 0.5}", "section '/efn/efn_corrector' has no 'ros__parameters'"),
        ("/efn/efn_corrector:\n", "section '/efn/efn_corrector' has no 'ros__parameters'"),
        ("/efn/efn_corrector: {ros__parameters: 3}", "section '/efn/efn_corrector' has no 'ros__parameters'"),
        ("- gain\n", "holds no sections of parameters"),
        ("gain: [0.5", "line 1"),
    ],
)
def test_a_file_that_is_no_parameter_file_is_named(overlay, text, message):
    path = overlay(None, text=text)
    with pytest.raises(ValueError, match=f"(?s){path}.*{message}"):
        Graph.load("libero_sim", [path])


def test_a_node_that_is_not_in_the_graph_has_no_parameters():
    with pytest.raises(KeyError, match="libero_bridge"):
        Graph.load("replay").parameters("libero_bridge")


# What is shipped


@pytest.mark.parametrize("world", WORLDS, ids=lambda path: path.stem)
def test_what_is_laid_over_the_agibot_fits_its_graph(world):
    assert Graph.load("agibot_g1", [world]).nodes


def test_a_node_that_is_left_out_may_have_parameters(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("/graph: {ros__parameters: {without: [agibot_g1_bridge]}}")
    names = [node.executable for node in Graph.load("agibot_g1", [overlay]).nodes]
    assert "agibot_g1_bridge" not in names and "efn_corrector" in names


def test_a_node_that_is_left_out_must_be_one(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("/graph: {ros__parameters: {without: [agibot_g1_brigde]}}")
    with pytest.raises(ValueError, match="is to be without .'agibot_g1_brigde'."):
        Graph.load("agibot_g1", [overlay])


def test_these_robots_are_shipped():
    assert tuple(robots()) == ROBOTS


def node_class(executable):
    module = importlib.import_module(f"efn_ros.nodes.{executable}")
    (found,) = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, EfnNode) and c.__module__ == module.__name__
    ]
    return found


def declared(executable):
    return {parameter.name: parameter for parameter in (*COMMON, *node_class(executable).PARAMETERS)}


def own_sections(path):
    return {name.rsplit("/", 1)[-1]: section for name, section in yaml.safe_load(path.read_text()).items()}


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_shipped_parameter_is_declared_by_its_node(robot):
    graph = Graph.load(robot, learn=True)
    assert graph.on_exit in (RESTART, STOP)
    common = set(own_sections(config_directory() / f"{robot}.yaml")["**"]["ros__parameters"])
    for node in graph.nodes:
        assert set(node.parameters) - common <= set(declared(node.executable)), node.executable
    assert common <= {name for node in graph.nodes for name in declared(node.executable)}


def same_type(value, default):
    """As ROS 2 takes it: 1 is no double, and an array is of one type."""
    if isinstance(default, list):
        return isinstance(value, list) and all(type(entry) is type(default[0]) for entry in value)
    return type(value) is type(default)


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_shipped_value_has_its_parameters_type_and_range(robot):
    for node in Graph.load(robot, learn=True).nodes:
        for name, parameter in declared(node.executable).items():
            value, where = node.parameters.get(name, parameter.default), f"{node.executable}: {name}"
            assert same_type(value, parameter.default), where
            assert parameter.least is None or value >= parameter.least, where
            assert parameter.most is None or value <= parameter.most, where
            assert parameter.description.endswith("."), where


@pytest.mark.parametrize("robot", ROBOTS)
def test_nothing_is_learnt_at_work_unless_asked_for_and_every_parameter_of_it_is_shipped(robot):
    graph = Graph.load(robot)
    assert graph.parameters("efn_corrector")["learn"] is False
    assert "efn_trainer" not in [node.executable for node in graph.nodes]
    shipped = Graph.load(robot, learn=True).parameters("efn_trainer")
    assert {p.name for p in node_class("efn_trainer").PARAMETERS} <= set(shipped)


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_remapping_is_of_a_node_in_the_graph(robot):
    graph = own_sections(config_directory() / f"{robot}.yaml")["graph"]["ros__parameters"]
    for name, rules in graph.items():
        if name.startswith("remap."):
            assert name.removeprefix("remap.") in graph["nodes"]
            assert all(rule.count(":=") == 1 for rule in rules)


@pytest.mark.parametrize("robot", ROBOTS)
def test_limits_fit_the_actions_they_limit(robot):
    graph = Graph.load(robot)
    corrector, policy = graph.parameters("efn_corrector"), graph.parameters("vla_policy")
    make_corrector(corrector)
    size = len(corrector["limits.low"])
    for name, value in corrector.items():
        if name.startswith("limits."):
            assert len(value) in (1, size), name
    if policy["policy"] == "untrained":
        assert policy["action_size"] == size
        assert policy["horizon"] >= corrector["control_steps"]


def test_the_arms_of_the_agibot_have_the_same_limits_and_sixteen_of_them():
    corrector = Graph.load("agibot_g1").parameters("efn_corrector")
    for name in ("low", "high", "residual", "velocity", "acceleration", "jerk", "reject"):
        values = corrector[f"limits.{name}"]
        assert len(values) == 16 and values[:8] == values[8:], name
    assert corrector["limits.holds_last"] == [True], "a position robot repeats its last command"
    grippers = np.isinf(corrector["limits.velocity"]).nonzero()[0].tolist()
    assert grippers == [7, 15]
    # What velocity allows in one control step is less than what is refused.
    for velocity, reject in zip(corrector["limits.velocity"], corrector["limits.reject"], strict=True):
        assert math.isinf(velocity) or velocity / corrector["rate_hz"] < reject


@pytest.mark.parametrize("robot", ROBOTS)
def test_policy_and_camera_ingest_agree_on_cameras_and_their_size(robot):
    graph = Graph.load(robot)
    ingest, policy = graph.parameters("camera_ingest"), graph.parameters("vla_policy")
    if policy["policy"] == "untrained":
        assert (ingest["cameras"], ingest["image_size"]) == (policy["cameras"], policy["image_size"])


def test_a_simulated_world_executes_as_many_steps_as_the_corrector_counts():
    graph = Graph.load("libero_sim")
    assert graph.parameters("libero_bridge")["execute_steps"] == graph.parameters("efn_corrector")["control_steps"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_shipped_deployment_lies_over_the_simulation_and_shifts_something(name):
    plain = Graph.load("libero_sim")
    graph = Graph.load("libero_sim", [config_directory() / "deployments" / f"{name}.yaml"])
    drawn = make_deployment(graph.parameters("libero_bridge"))
    assert drawn != Deployment() == make_deployment(plain.parameters("libero_bridge"))
    names = declared("libero_bridge")
    for key, value in graph.parameters("libero_bridge").items():
        assert key not in names or same_type(value, names[key].default), key
    for node in graph.nodes:
        if node.executable != "libero_bridge":
            assert node.parameters == plain.parameters(node.executable)


# Security


def test_a_node_is_told_its_enclave_only_where_security_is_asked_for(monkeypatch):
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    assert enclave_arguments("efn", "vla_policy") == []
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    assert enclave_arguments("efn", "vla_policy") == ["--enclave", "/efn/vla_policy"]
    assert enclave_arguments("/", "vla_policy") == ["--enclave", "/vla_policy"]
    assert enclave_arguments("/left/efn/", "vla_policy") == ["--enclave", "/left/efn/vla_policy"]


@pytest.mark.parametrize("robot", ["agibot_g1", "arm_7dof"])
def test_a_real_robot_starts_in_shadow_while_no_network_is_named_that_fits_it(robot):
    parameters = Graph.load(robot).parameters("efn_corrector")
    assert parameters["method"] == "recalled_action" and parameters["shadow"]
