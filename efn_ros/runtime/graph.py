"""The graph of a robot as data: `config/<robot>.yaml`, read by the launch files and by the package's own bring-up."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from efn_ros.resources import config_directory

RESTART, STOP = "restart", "stop"


@dataclass(frozen=True)
class NodeSpec:
    """One process: its executable (and node name), parameters by dotted name, and remappings (from, to)."""

    executable: str
    parameters: dict[str, Any]
    remappings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Graph:
    """robot: the name. nodes: in the order they are started. on_exit: what follows when one of them dies. optional: the
    nodes that a parameter of all nodes adds where it is true, by its name."""

    robot: str
    nodes: tuple[NodeSpec, ...]
    on_exit: str
    optional: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, robot: str, overlays: Iterable[str | Path] = (), **parameters: Any) -> Graph:
        """Read the robot's graph, lay `overlays` (parameter files) and then `parameters` (for every node) over it.

        `when.<flag>` of the graph lists nodes that are part of it only where that parameter of every node is true,
        `without` those that are left out.
        Raises FileNotFoundError for an unknown robot or file, ValueError naming the file and the entry that is wrong.
        """
        sections: dict[str, dict[str, Any]] = {}
        for path in (config_directory() / f"{robot}.yaml", *map(Path, overlays)):
            for name, values in _read(path).items():
                sections.setdefault(name, {}).update(values)
        graph = sections.pop("graph", {})
        common = {**sections.pop("**", {}), **parameters}
        left_out, on_exit = set(graph.get("without", [])), graph.get("on_exit", RESTART)
        executables = list(graph.get("nodes", []))
        optional = {name.removeprefix("when."): more for name, more in graph.items() if name.startswith("when.")}
        known = set(executables).union(*optional.values())
        unknown = set(sections) - known
        if not left_out <= known:
            raise ValueError(f"graph of {robot!r} is to be without {sorted(left_out - known)}; it has {sorted(known)}")
        executables += [name for flag, more in optional.items() if common.get(flag) for name in more]
        executables = [name for name in executables if name not in left_out]
        if not executables or unknown:
            raise ValueError(
                f"graph of {robot!r}: nodes are {executables}, but there are parameters for {sorted(unknown)}"
            )
        if on_exit not in (RESTART, STOP):
            raise ValueError(f"graph of {robot!r}: on_exit is {on_exit!r}; it must be {RESTART!r} or {STOP!r}")
        nodes = (
            NodeSpec(
                executable,
                {**common, **sections.get(executable, {}), **parameters},
                tuple(tuple(rule.split(":=", 1)) for rule in graph.get(f"remap.{executable}", [])),
            )
            for executable in executables
        )
        return cls(robot, tuple(nodes), on_exit, optional)

    def parameters(self, executable: str) -> dict[str, Any]:
        """Parameters of one node by dotted name. Raises KeyError for a node that is not part of the graph."""
        return {node.executable: node for node in self.nodes}[executable].parameters


def dry_run(robot: str) -> Path:
    """What is laid over a robot's graph so that a simulated one takes its place. Raises FileNotFoundError for a robot
    that has none."""
    path = config_directory() / "dry_run" / f"{robot}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{robot} has no dry run: there is no {path}")
    return path


def enclave(namespace: str, name: str) -> str:
    """Where the keys of a process are in a keystore of SROS2: those of each node apart."""
    return "/".join(("", *filter(None, [namespace.strip("/")]), name))


def enclave_arguments(namespace: str, executable: str) -> list[str]:
    """What ROS 2 is told of it, where the environment asks for security."""
    return ["--enclave", enclave(namespace, executable)] if os.environ.get("ROS_SECURITY_ENABLE") == "true" else []


def robots() -> list[str]:
    return sorted(path.stem for path in config_directory().glob("*.yaml") if "graph" in _read(path))


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Node name (without its namespace) -> parameters by dotted name."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no parameter file {path}")
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no sections of parameters")
    sections = {}
    for name, section in document.items():
        if not isinstance(section, dict) or not isinstance(section.get("ros__parameters"), dict):
            raise ValueError(f"{path}: section {name!r} has no 'ros__parameters'")
        sections[name.rsplit("/", 1)[-1]] = dict(_flatten(section["ros__parameters"]))
    return sections


def _flatten(values: dict[str, Any], prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
