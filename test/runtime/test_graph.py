# SPDX-License-Identifier: MIT
"""Graphs as data: what overrides what, what is refused, and that every shipped file fits the nodes it configures."""

import math

import numpy as np
import pytest
import yaml

from efn_ros.commands._reference import executables, node_class
from efn_ros.resources import config_directory
from efn_ros.ros.node import COMMON
from efn_ros.runtime.factory import make_corrector, make_deployment
from efn_ros.runtime.graph import RESTART, STOP, Graph, dry_run, enclave_arguments, graphs
from efn_ros.worlds.deployment import Deployment

ROBOTS = ("agibot_g1", "arm_7dof")
VARIANTS = ("agibot_g1_dry_run", "agibot_g1_genie_sim", "agibot_g1_replay")
SIMULATIONS = ("libero_sim", "metaworld_sim")
GRAPHS = sorted((*ROBOTS, *VARIANTS, *SIMULATIONS, "replay"))
DEPLOYMENTS = sorted(path.stem for path in (config_directory() / "deployments").glob("*.yaml"))


@pytest.fixture
def document(tmp_path):
    """Writes a graph document: document(extends="replay", ...) -> its path."""

    def write(**entries):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(entries))
        return str(tmp_path / "mine.yaml")

    return write


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
    plain = Graph.load("metaworld_sim")
    graph = Graph.load("metaworld_sim", [overlay({"/efn/efn_corrector": {"gain": 0.25}})])
    assert graph.parameters("efn_corrector") == {**plain.parameters("efn_corrector"), "gain": 0.25}
    assert graph.parameters("vla_policy") == plain.parameters("vla_policy")


def test_a_later_overlay_wins(overlay):
    first = overlay({"/efn/efn_corrector": {"gain": 0.25, "min_confidence": 0.1}})
    second = overlay({"/efn/efn_corrector": {"gain": 0.75}})
    parameters = Graph.load("metaworld_sim", [first, str(second)]).parameters("efn_corrector")
    assert (parameters["gain"], parameters["min_confidence"]) == (0.75, 0.1)


def test_a_parameter_of_one_node_wins_over_one_of_all(overlay):
    everywhere = overlay({"/**": {"gain": 0.1, "bank": "elsewhere"}})
    graph = Graph.load("metaworld_sim", [everywhere])
    assert graph.parameters("efn_corrector")["gain"] == 1.0
    assert all(node.parameters["bank"] == "elsewhere" for node in graph.nodes)


def test_a_parameter_given_by_name_wins_over_every_file_and_goes_to_every_node(overlay):
    path = overlay({"/**": {"bank": "elsewhere"}, "/efn/bank_writer": {"bank": "there"}})
    graph = Graph.load("metaworld_sim", [path], bank="here", use_sim_time=True)
    assert all((node.parameters["bank"], node.parameters["use_sim_time"]) == ("here", True) for node in graph.nodes)


@pytest.mark.parametrize(
    "name", ["/efn/efn_corrector", "/site/robot_7/efn_corrector", "efn_corrector", "/**/efn_corrector"]
)
def test_the_namespace_of_a_section_does_not_matter(overlay, name):
    assert Graph.load("metaworld_sim", [overlay({name: {"gain": 0.25}})]).parameters("efn_corrector")["gain"] == 0.25


@pytest.mark.parametrize(
    "values",
    [
        {"deployment": {"seed": 3, "yaw": 0.5}},
        {"deployment.seed": 3, "deployment.yaw": 0.5},
        {"deployment": {"seed": 3}, "deployment.yaw": 0.5},
    ],
)
def test_nested_parameters_and_dotted_names_are_the_same(overlay, values):
    parameters = Graph.load("metaworld_sim", [overlay({"/efn/sim_bridge": values})]).world
    assert (parameters["deployment.seed"], parameters["deployment.yaw"], parameters["deployment.gain"]) == (3, 0.5, 0.0)
    assert "deployment" not in parameters


def test_a_section_may_name_the_node_or_its_executable_and_the_node_wins(overlay):
    by_executable, by_node = {"/efn/sim_bridge": {"pacing": "realtime", "retry_s": 1.0}}, {"pacing": "lockstep"}
    world = Graph.load("metaworld_sim", [overlay({**by_executable, "/efn/metaworld_bridge": by_node})]).world
    assert (world["pacing"], world["retry_s"]) == ("lockstep", 1.0)


def test_old_names_of_parameters_are_read_with_a_warning(overlay):
    path = overlay({"/efn/experience_retrieval": {"rollouts": 7}, "/efn/efn_trainer": {"rule": "when proven"}})
    with pytest.warns(FutureWarning, match="rollouts: 7 of experience_retrieval is now max_rollouts"):
        graph = Graph.load("metaworld_sim", [path], learn=True)
    assert graph.parameters("experience_retrieval")["max_rollouts"] == 7
    assert graph.parameters("efn_trainer")["rule"] == "when accepted"


# Documents


def test_a_document_extends_another_graph(document, tmp_path):
    (tmp_path / "port.yaml").write_text("/efn/gamepad: {ros__parameters: {port: 3}}")
    nodes = {"gamepad": None, "vla_policy": {"remap": {"observation": "/camera/observation"}}}
    path = document(extends="metaworld_sim", nodes=nodes, parameters=["port.yaml"], on_exit="stop")
    plain, graph = Graph.load("metaworld_sim"), Graph.load(path)
    assert (graph.name, graph.on_exit, graph.names) == ("mine", STOP, (*plain.names, "gamepad"))
    assert graph.parameters("gamepad")["port"] == 3
    remapped = {node.name: node.remappings for node in graph.nodes if node.remappings}
    assert remapped == {"vla_policy": (("observation", "/camera/observation"),)}


def test_a_remapping_to_nothing_takes_back_an_inherited_one(document):
    path = document(extends="agibot_g1", nodes={"camera_ingest": {"remap": {"joint_states": ""}}})
    (ingest,) = (node for node in Graph.load(path).nodes if node.name == "camera_ingest")
    assert len(ingest.remappings) == 3 and "joint_states" not in dict(ingest.remappings)


def test_a_node_that_is_left_out_may_have_parameters(document):
    names = Graph.load(document(extends="agibot_g1", without=["agibot_g1_bridge"])).names
    assert "agibot_g1_bridge" not in names and "efn_corrector" in names


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"without": ["agibot_g1_brigde"]}, r"without names \['agibot_g1_brigde'\]"),
        ({"on_exit": "explode"}, "on_exit is 'explode'; it must be 'restart' or 'stop'"),
        ({"node": {}}, "'node' is no entry of a graph; use extends, nodes"),
        ({"nodes": {"vla_policy": {"remaps": {}}}}, "'remaps' is no entry of node 'vla_policy'; use executable"),
    ],
)
def test_a_document_that_does_not_fit_is_named(document, entries, message):
    with pytest.raises(ValueError, match=message):
        Graph.load(document(extends="agibot_g1", **entries))


def test_a_document_that_names_a_missing_file_is_named(document):
    with pytest.raises(FileNotFoundError, match="parameter file .*/mars.yaml does not exist"):
        Graph.load(document(extends="replay", parameters=["mars"]))


def test_a_graph_section_of_version_0_1_is_read_with_a_warning(overlay):
    names = list(Graph.load("metaworld_sim").names)
    section = {
        "nodes": [*names, "gamepad"],
        "on_exit": "stop",
        "remap.vla_policy": ["observation:=/camera/observation"],
    }
    with pytest.warns(FutureWarning, match="changes the graph in a section 'graph'"):
        graph = Graph.load("metaworld_sim", [overlay({"/efn/graph": section, "/efn/gamepad": {"port": 3}})])
    assert [*graph.names] == [*names, "gamepad"] and graph.on_exit == STOP
    assert dict(graph.nodes[2].remappings) == {"observation": "/camera/observation"}


def test_each_entry_of_a_graph_section_of_version_0_1_replaces_that_of_the_graph(overlay):
    """Such as the dry run of version 0.1, which must take every topic of the real robot back."""
    plain = Graph.load("agibot_g1")
    nodes = ["episode_manager", "agibot_g1_driver", "agibot_g1_bridge", "camera_ingest", "vla_policy",
             "experience_retrieval", "efn_corrector", "bank_writer"]  # fmt: skip
    section = {"nodes": nodes, "remap.camera_ingest": ["joint_states:=proprioception"], "remap.agibot_g1_bridge": []}
    with pytest.warns(FutureWarning):
        graph = Graph.load("agibot_g1", [overlay({"/efn/graph": section})])
    assert list(graph.names) == nodes and graph.optional == plain.optional
    remapped = {node.name: node.remappings for node in graph.nodes if node.remappings}
    assert remapped == {"camera_ingest": (("joint_states", "proprioception"),)}
    others = {"when.learn": ["efn_trainer", "gamepad"], "remap.not_there": ["a:=b"], "without": ["bank_writer"]}
    with pytest.warns(FutureWarning):
        graph = Graph.load("replay", [overlay({"/efn/graph": others})], learn=True)
    expected = [*(name for name in Graph.load("replay").names if name != "bank_writer"), "efn_trainer", "gamepad"]
    assert list(graph.names) == expected and graph.optional == {"learn": ["efn_trainer", "gamepad"]}


def test_a_graph_section_of_version_0_1_may_name_the_bridge_of_the_simulation_as_it_did(overlay):
    section = {"nodes": [name.replace("metaworld", "libero") for name in Graph.load("metaworld_sim").names]}
    with pytest.warns(FutureWarning):
        graph = Graph.load("metaworld_sim", [overlay({"/efn/graph": section, "/efn/libero_bridge": {"retry_s": 1.0}})])
    assert (graph.names[-1], graph.nodes[-1].executable) == ("libero_bridge", "sim_bridge")
    assert (graph.world["world"], graph.world["retry_s"]) == ("metaworld", 1.0)


@pytest.mark.parametrize("learn", [True, False])
def test_a_node_behind_a_flag_is_part_of_the_graph_only_where_the_flag_is_set(overlay, learn):
    graph = Graph.load("metaworld_sim", [overlay({"/**": {"learn": learn}, "/efn/efn_trainer": {"epochs": 2}})])
    plain = Graph.load("metaworld_sim").names
    assert "efn_trainer" not in plain
    assert set(graph.names) == {*plain, *["efn_trainer"] * learn}
    assert not learn or graph.parameters("efn_trainer")["epochs"] == 2


def test_an_empty_overlay_changes_nothing(overlay):
    assert Graph.load("metaworld_sim", [overlay(None, text="# nothing\n")]) == Graph.load("metaworld_sim")


# What is refused


def test_an_unknown_graph_is_named():
    with pytest.raises(FileNotFoundError, match="graph 'r2d2' does not exist; choose one of agibot_g1, "):
        Graph.load("r2d2")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"parameter file {tmp_path}/missing.yaml does not exist"):
        Graph.load("metaworld_sim", [tmp_path / "missing.yaml"])


def test_parameters_of_a_node_that_is_not_in_the_graph_are_named(overlay):
    with pytest.raises(ValueError, match=r"graph 'replay': parameters names \['metaworld_bridge'\]; it has"):
        Graph.load("replay", [overlay({"/efn/metaworld_bridge": {"pacing": "realtime"}})])


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
        Graph.load("metaworld_sim", [path])


def test_a_node_that_is_not_in_the_graph_has_no_parameters():
    with pytest.raises(KeyError, match="metaworld_bridge"):
        Graph.load("replay").parameters("metaworld_bridge")
    with pytest.raises(KeyError, match="graph 'replay' has no simulated world"):
        _ = Graph.load("replay").world


# What is shipped


def test_these_graphs_are_shipped():
    assert graphs() == GRAPHS


def test_only_the_agibot_has_a_dry_run():
    assert dry_run("agibot_g1") == "agibot_g1_dry_run"
    with pytest.raises(FileNotFoundError, match="arm_7dof has no dry run: graph arm_7dof_dry_run does not exist"):
        dry_run("arm_7dof")


@pytest.mark.parametrize("name", ["agibot_g1_dry_run", "agibot_g1_genie_sim"])
def test_a_simulated_robot_shares_no_topic_with_a_real_one(name):
    real, simulated = (
        dict(n.remappings) for g in ("agibot_g1", name) for n in Graph.load(g).nodes if "bridge" in n.name
    )
    assert not set(real.values()) & set(simulated.values())


def test_every_executable_has_a_node():
    assert {"sim_bridge", "efn_corrector", "image_reranking"} <= set(executables())
    assert all(node_class(name).__doc__ for name in executables())


def declared(executable):
    return {parameter.name: parameter for parameter in (*COMMON, *node_class(executable).PARAMETERS)}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_shipped_parameter_is_declared_by_its_node(name):
    graph = Graph.load(name, learn=True)
    assert graph.on_exit in (RESTART, STOP)
    common = set(
        yaml.safe_load((config_directory() / "parameters" / "defaults.yaml").read_text())["/**"]["ros__parameters"]
    )
    for node in graph.nodes:
        assert set(node.parameters) - common <= set(declared(node.executable)), node.name
    assert common <= {parameter for node in graph.nodes for parameter in declared(node.executable)}


def same_type(value, default):
    """As ROS 2 takes it: 1 is no double, and an array is of one type."""
    if isinstance(default, list):
        return isinstance(value, list) and all(type(entry) is type(default[0]) for entry in value)
    return type(value) is type(default)


@pytest.mark.parametrize("robot", GRAPHS)
def test_every_shipped_value_has_its_parameters_type_and_range(robot):
    for node in Graph.load(robot, learn=True).nodes:
        for name, parameter in declared(node.executable).items():
            value, where = node.parameters.get(name, parameter.default), f"{node.executable}: {name}"
            assert same_type(value, parameter.default), where
            assert parameter.min is None or value >= parameter.min, where
            assert parameter.max is None or value <= parameter.max, where
            assert parameter.description.endswith("."), where


@pytest.mark.parametrize("robot", GRAPHS)
def test_nothing_is_learned_at_work_unless_asked_for_and_every_parameter_of_it_is_shipped(robot):
    graph = Graph.load(robot)
    assert graph.parameters("efn_corrector")["learn"] is False
    assert "efn_trainer" not in graph.names
    shipped = Graph.load(robot, learn=True).parameters("efn_trainer")
    assert {p.name for p in node_class("efn_trainer").PARAMETERS} <= set(shipped)


@pytest.mark.parametrize("robot", GRAPHS)
def test_limits_fit_the_actions_they_limit(robot):
    graph = Graph.load(robot)
    corrector, policy = graph.parameters("efn_corrector"), graph.parameters("vla_policy")
    make_corrector(corrector)
    size = max(len(value) for name, value in corrector.items() if name.startswith("limits."))
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


@pytest.mark.parametrize("robot", GRAPHS)
def test_policy_and_camera_ingest_agree_on_cameras_and_their_size(robot):
    graph = Graph.load(robot)
    ingest, policy = graph.parameters("camera_ingest"), graph.parameters("vla_policy")
    if policy["policy"] == "untrained":
        assert (ingest["cameras"], ingest["image_size"]) == (policy["cameras"], policy["image_size"])


@pytest.mark.parametrize("name", SIMULATIONS)
def test_a_simulated_world_executes_as_many_steps_as_the_corrector_counts(name):
    graph = Graph.load(name)
    assert graph.world["execute_steps"] == graph.parameters("efn_corrector")["control_steps"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_shipped_deployment_lies_over_the_simulation_and_shifts_something(name):
    plain = Graph.load("metaworld_sim")
    graph = Graph.load("metaworld_sim", [config_directory() / "deployments" / f"{name}.yaml"])
    drawn = make_deployment(graph.world)
    assert drawn != Deployment() == make_deployment(plain.world)
    names = declared("sim_bridge")
    for key, value in graph.world.items():
        assert key not in names or same_type(value, names[key].default), key
    for node in graph.nodes:
        if node.name != "metaworld_bridge":
            assert node.parameters == plain.parameters(node.name)


# Security


def test_a_node_is_given_its_enclave_only_where_security_is_asked_for(monkeypatch):
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    assert enclave_arguments("efn", "vla_policy") == []
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    assert enclave_arguments("efn", "vla_policy") == ["--enclave", "/efn/vla_policy"]
    assert enclave_arguments("/", "vla_policy") == ["--enclave", "/vla_policy"]
    assert enclave_arguments("/left/efn/", "vla_policy") == ["--enclave", "/left/efn/vla_policy"]


@pytest.mark.parametrize("robot", [*ROBOTS, *VARIANTS])
def test_a_real_robot_starts_in_shadow_while_no_network_is_named_that_fits_it(robot):
    parameters = Graph.load(robot).parameters("efn_corrector")
    assert parameters["method"] == "recalled_action" and parameters["shadow"]


def dotted(values: dict, prefix: str = "") -> list[tuple[str, object]]:
    """Return parameters by their full names."""
    pairs = []
    for name, value in values.items():
        pairs += dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return pairs


def test_defaults_of_the_nodes_are_those_of_the_shared_file():
    """The reference page lists a node's own defaults; whoever reads it must not be misled about a graph's."""
    document = yaml.safe_load((config_directory() / "parameters/defaults.yaml").read_text())
    for node, section in document.items():
        own = {p.name: p.default for p in node_class(node.rsplit("/", 1)[-1]).PARAMETERS} if node != "/**" else {}
        for name, value in dotted(section["ros__parameters"]):
            if name in own and not isinstance(value, str):
                assert own[name] == value, (node, name)
