"""The launch description of a graph, for `ros2 launch`; thin over the same data as `./efn bringup`."""

import contextlib

from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from efn_ros.runtime.graph import RESTART, Graph, dry_run, enclave_arguments
from launch import LaunchDescription

RESPAWN_DELAY_S = 1.0
FLAGS = {"true": True, "false": False}


def describe(robot: str) -> LaunchDescription:
    """Arguments with the usual names, then one process for each node of the robot's graph."""
    arguments = [
        DeclareLaunchArgument("namespace", default_value="efn", description="Namespace of every node and topic."),
        DeclareLaunchArgument("params_file", default_value="", description="Parameters laid over the robot's own."),
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
        DeclareLaunchArgument(
            "bank", default_value="", description="Directory of the bank; empty: what the robot's file says."
        ),
        DeclareLaunchArgument(
            "on_exit",
            default_value="",
            choices=["", "restart", "stop"],
            description="What follows when a node dies; empty: what the robot's file says.",
        ),
    ]
    with contextlib.suppress(FileNotFoundError):
        dry_run(robot)
        arguments.append(
            DeclareLaunchArgument(
                "dry_run",
                default_value="false",
                choices=list(FLAGS),
                description="A simulated robot in place of the real one, on topics of its own; of agibot_g1.",
            )
        )
    return LaunchDescription([*arguments, OpaqueFunction(function=lambda context: _nodes(context, robot))])


def _nodes(context, robot: str) -> list[Node]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    overlays = [dry_run(robot)] if FLAGS[context.launch_configurations.get("dry_run", "false")] else []
    overlays += [value("params_file")] if value("params_file") else []
    graph = Graph.load(
        robot,
        overlays,
        autostart=FLAGS[value("autostart")],
        use_sim_time=FLAGS[value("use_sim_time")],
        **({"bank": value("bank")} if value("bank") else {}),
    )
    restart = (value("on_exit") or graph.on_exit) == RESTART
    return [
        Node(
            package="efn_ros",
            executable=node.executable,
            name=node.executable,
            namespace=value("namespace"),
            parameters=[node.parameters],
            remappings=list(node.remappings),
            output="screen",
            respawn=restart,
            respawn_delay=RESPAWN_DELAY_S,
            on_exit=None if restart else Shutdown(reason=f"{node.executable} ended"),
            ros_arguments=[
                *("--log-level", f"{node.executable}:={value('log_level')}"),
                *enclave_arguments(value("namespace"), node.executable),
            ],
        )
        for node in graph.nodes
    ]
