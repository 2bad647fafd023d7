# SPDX-License-Identifier: MIT
"""Launch description of a graph for `ros2 launch`, from the same document as `./efn bringup`."""

import contextlib

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown  # pyright: ignore[reportMissingImports]
from launch.substitutions import LaunchConfiguration  # pyright: ignore[reportMissingImports]
from launch_ros.actions import Node  # pyright: ignore[reportMissingImports]

from efn_ros.runtime.graph import RESTART, Graph, dry_run, enclave_arguments
from launch import LaunchDescription  # pyright: ignore[reportAttributeAccessIssue]

RESPAWN_DELAY_S = 1.0
FLAGS = {"true": True, "false": False}


def describe(name: str) -> LaunchDescription:
    """Return the launch description of a graph: its arguments, then one process for each node."""
    arguments = [
        DeclareLaunchArgument(
            "graph",
            default_value=name,
            description="Graph to start: a name in config/graphs, or the path of a document.",
        ),
        DeclareLaunchArgument("namespace", default_value="efn", description="Namespace of every node and topic."),
        DeclareLaunchArgument(
            "params_file", default_value="", description="Parameter file that overrides the graph's own."
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", choices=list(FLAGS), description="Take time from /clock."
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            choices=list(FLAGS),
            description="Nodes configure and activate themselves.",
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="Log level of the nodes."),
        DeclareLaunchArgument("bank", default_value="", description="Directory of the bank; empty: the graph's own."),
        DeclareLaunchArgument(
            "on_exit",
            default_value="",
            choices=["", "restart", "stop"],
            description="What happens if a node dies; empty: as in the graph.",
        ),
    ]
    with contextlib.suppress(FileNotFoundError):
        dry_run(name)
        arguments.append(
            DeclareLaunchArgument(
                "dry_run",
                default_value="false",
                choices=list(FLAGS),
                description="Simulate the robot, on topics of its own; for agibot_g1.",
            )
        )
    return LaunchDescription([*arguments, OpaqueFunction(function=_nodes)])


def _nodes(context) -> list[Node]:
    def value(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    simulated = FLAGS[context.launch_configurations.get("dry_run", "false")]
    graph = Graph.load(
        dry_run(value("graph")) if simulated else value("graph"),
        [value("params_file")] if value("params_file") else [],
        autostart=FLAGS[value("autostart")],
        use_sim_time=FLAGS[value("use_sim_time")],
        **({"bank": value("bank")} if value("bank") else {}),
    )
    restart = (value("on_exit") or graph.on_exit) == RESTART
    return [
        Node(
            package="efn_ros",
            executable=node.executable,
            name=node.name,
            namespace=value("namespace"),
            parameters=[node.parameters],
            remappings=list(node.remappings),
            output="screen",
            respawn=restart,
            respawn_delay=RESPAWN_DELAY_S,
            on_exit=None if restart else Shutdown(reason=f"{node.name} ended"),
            ros_arguments=[
                *("--log-level", f"{node.name}:={value('log_level')}"),
                *enclave_arguments(value("namespace"), node.name),
            ],
        )
        for node in graph.nodes
    ]
