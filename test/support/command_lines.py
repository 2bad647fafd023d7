# SPDX-License-Identifier: MIT
"""Command lines in documents and configuration: the words of each, and whether it could run."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import yaml

from efn_ros import commands as package
from efn_ros.commands._reference import executables, node_class
from efn_ros.commands._subcommands import modules
from efn_ros.commands.main import load
from efn_ros.runtime.graph import Graph

ROOT = Path(__file__).resolve().parents[2]
SEPARATORS = {"|", "||", "&&", ";", "&"}
GRAPHS = ("metaworld_sim", "libero_sim", "agibot_g1", "arm_7dof", "replay")
SET_UP = {"setup", "shell", "env"}  # commands of the script ./efn itself
PROGRAMS = {
    "bloom-release", "cat", "catkin_generate_changelog", "cd", "codespell", "colcon", "cp", "docker", "export", "git",
    "mkdir", "nano", "nproc", "pip", "pre-commit", "pytest", "python", "python3", "rosdep", "ruff", "source", "sudo",
    "tail", "tensorboard",
}  # fmt: skip


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a script, without its environment and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split, words = True, []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
                continue
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                yield words
            words = []


def check_efn(words: list[str]) -> None:
    """Parse the words after ./efn as the command itself would."""
    if words[:1] == ["shell"] and len(words) > 1:
        check_command(words[1:])
    elif words and words[0] not in SET_UP:
        assert words[0] in modules(package), f"there is no command {words[0]}"
        module, parser = load(words[0])
        complaint = io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint):
                _, rest = parser.parse_known_args(words[1:])
        except SystemExit as end:
            raise AssertionError(complaint.getvalue()) from end
        assert not rest or getattr(module, "PASSES_ON", False), f"{words[0]} does not know {rest}"


def check_launch(words: list[str]) -> None:
    """Check the file and the arguments after `ros2 launch efn_ros`."""
    assert words[0] == "efn_ros" and (ROOT / "launch" / words[1]).is_file(), words
    source = (ROOT / "efn_ros/ros/launching.py").read_text()
    declared = set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', source))
    assert declared
    assert {word.partition(":=")[0] for word in words[2:]} <= declared, words


def interface(name: str) -> type:
    """Return the class of an interface, such as std_srvs/srv/Trigger."""
    module, kind, type_ = name.split("/")
    return getattr(import_module(f"{module}.{kind}"), type_)


def check_fields(kind: type, text: str) -> None:
    """Check that YAML fits a message."""
    kind(**yaml.safe_load(text))


@cache
def _executable_of(node: str) -> str:
    names = {spec.name: spec.executable for graph in GRAPHS for spec in Graph.load(graph).nodes}
    names |= {name: name for name in executables()}
    assert node in names, f"no graph has a node {node}"
    return names[node]


def check_ros2(words: list[str]) -> None:
    """Check types, fields and names of nodes; names of topics and services are checked against running nodes below."""
    match words:
        case ["launch", *rest]:
            check_launch(rest)
        case ["run", "efn_ros", executable, *_]:
            assert executable in executables()
        case ["run", "efn_cpp_subscriber", executable]:
            assert f"add_executable({executable} " in (ROOT / "examples/cpp_subscriber/CMakeLists.txt").read_text()
        case ["service", "call", _, kind]:
            interface(kind)
        case ["service", "call", _, kind, text]:
            check_fields(interface(kind).Request, text)
        case ["action", "send_goal", _, kind, text, *_]:
            check_fields(interface(kind).Goal, text)
        case ["topic", "pub", "--once", _, kind, text]:
            check_fields(interface(kind), text)
        case ["interface", "show", kind]:
            interface(kind)
        case ["param", verb, node, *names]:
            executable = _executable_of(node.removeprefix("/efn/"))
            assert verb in ("get", "describe", "dump", "list")
            assert set(names) <= {p.name for p in node_class(executable).PARAMETERS}
        case ["lifecycle", "get" | "set", node, *transition]:
            _executable_of(node.removeprefix("/efn/"))
            assert set(transition) <= {"configure", "activate", "deactivate", "cleanup", "shutdown"}
        case ["topic", "echo" | "hz" | "info" | "list", *_] | ["bag", "record" | "play" | "info", *_]:
            pass
        case ["node" | "service" | "action" | "topic", "list"]:
            pass
        case _:
            raise AssertionError(f"nothing checks ros2 {' '.join(words)}")


def check_command(words: list[str]) -> None:
    """Check one command.

    Raises:
        AssertionError: It cannot run, or nothing here can check it.
    """
    if words[0] in ("./efn", "efn"):
        check_efn(words[1:])
    elif words[0] == "ros2":
        check_ros2(words[1:])
    else:
        assert words[0] in PROGRAMS, f"nothing checks {words[0]}"
        if words[0].startswith("python") and words[1:] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words[1]
