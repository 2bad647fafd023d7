# SPDX-License-Identifier: MIT
"""Graphs as data: `config/graphs/<name>.yaml` with its parameter files, read by every front end.

A graph document has these entries:

    extends: another graph, whose nodes and parameters come first
    nodes: name -> executable (default: the name), remap (from -> to), when (a parameter that must be true)
    without: names of inherited nodes to leave out
    parameters: names of files in config/parameters, or paths (*.yaml) relative to the document; later ones override
    on_exit: reaction to the end of a node: restart it, or stop the graph

A section of a parameter file is named by a node, an executable, or `**` for all nodes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from efn_ros.resources import config_directory
from efn_ros.runtime.renamed import current_parameters

RESTART, STOP = "restart", "stop"
ALL_NODES = "**"
SIMULATION = "sim_bridge"  # the executable of every simulated world
SIMULATION_BEFORE = "libero_bridge"  # its name before version 0.2
DOCUMENT = ("extends", "nodes", "without", "parameters", "on_exit")
NODE = ("executable", "remap", "when")
HIDDEN = "_"  # prefix of the names of graphs that are only extended


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph."""

    name: str  # of the node
    executable: str  # of this package
    parameters: dict[str, Any]  # by dotted name
    remappings: tuple[tuple[str, str], ...] = ()  # (from, to)


@dataclass(frozen=True)
class Graph:
    """The processes of a robot, in the order of their start."""

    name: str  # of the document
    nodes: tuple[NodeSpec, ...]  # in the order in which they start
    on_exit: str = RESTART  # reaction to the end of a node: RESTART or STOP
    optional: dict[str, list[str]] = field(default_factory=dict)  # parameter -> nodes that it adds if it is true

    @classmethod
    def load(cls, name: str, overlays: Iterable[str | Path] = (), **parameters: Any) -> Graph:
        """Read a graph and override its parameters.

        Args:
            name: One of `graphs()`, or the path of a document.
            overlays: Parameter files that override those of the graph; later ones override earlier ones.
            **parameters: Override those of every node.

        Raises:
            FileNotFoundError: The graph or a file does not exist.
            ValueError: A file does not fit; the message names it and the entry.
        """
        document = _document(name)
        sections: dict[str, dict[str, Any]] = {}
        for path in (*document["parameters"], *map(Path, overlays)):
            for section, values in _read_sections(path).items():
                if section == "graph":
                    document = _with_section(document, values, path)
                    continue
                known = _executable_of(document, section)
                sections.setdefault(section, {}).update(current_parameters(known, values, f"{path.name}: "))
        return cls._of(name, document, sections, parameters)

    @classmethod
    def _of(cls, name: str, document: dict, sections: dict[str, dict[str, Any]], parameters: dict[str, Any]) -> Graph:
        common = {**sections.pop(ALL_NODES, {}), **parameters}
        nodes, left_out = document["nodes"], set(document["without"])
        known = set(nodes) | {_executable_of(document, node) for node in nodes}
        for what, names in (("without", left_out), ("parameters", set(sections))):
            if names - known:
                raise ValueError(f"graph {name!r}: {what} names {sorted(names - known)}; it has {sorted(nodes)}")
        if document["on_exit"] not in (RESTART, STOP):
            raise ValueError(f"graph {name!r}: on_exit is {document['on_exit']!r}; it must be {RESTART!r} or {STOP!r}")
        optional: dict[str, list[str]] = {}
        specs = []
        for node, entry in nodes.items():
            when = entry.get("when")
            if when:
                optional.setdefault(when, []).append(node)
            if node in left_out or (when and not common.get(when)):
                continue
            executable = _executable_of(document, node)
            own = {**sections.get(executable, {}), **sections.get(node, {})}
            remap = tuple((source, target) for source, target in entry.get("remap", {}).items() if target)
            specs.append(NodeSpec(node, executable, {**common, **own, **parameters}, remap))
        if not specs:
            raise ValueError(f"graph {name!r} has no nodes")
        return cls(Path(name).stem, tuple(specs), document["on_exit"], optional)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(node.name for node in self.nodes)

    def parameters(self, node: str) -> dict[str, Any]:
        """Return the parameters of one node by dotted name.

        Raises:
            KeyError: The graph has no such node.
        """
        return {each.name: each.parameters for each in self.nodes}[node]

    @property
    def world(self) -> dict[str, Any]:
        """Parameters of the simulated world.

        Raises:
            KeyError: The graph has none.
        """
        found = [node.parameters for node in self.nodes if node.executable == SIMULATION]
        if not found:
            raise KeyError(f"graph {self.name!r} has no simulated world: none of its nodes is a {SIMULATION}")
        return found[0]


def graphs() -> list[str]:
    """Return the names of the graphs that come with the package."""
    found = (config_directory() / "graphs").glob("*.yaml")
    return sorted(path.stem for path in found if not path.stem.startswith(HIDDEN))


def dry_run(name: str) -> str:
    """Return the graph in which a simulated robot replaces the robot of a graph.

    Raises:
        FileNotFoundError: The graph has no dry run.
    """
    found = f"{name}_dry_run"
    if found not in graphs():
        raise FileNotFoundError(f"{name} has no dry run: graph {found} does not exist")
    return found


def enclave(namespace: str, name: str) -> str:
    """Return the enclave of a node in a keystore of SROS2; each node has its own."""
    return "/".join(("", *filter(None, [namespace.strip("/")]), name))


def enclave_arguments(namespace: str, name: str) -> list[str]:
    """Return the ROS arguments that set the enclave of a node; none unless the environment enables security."""
    return ["--enclave", enclave(namespace, name)] if os.environ.get("ROS_SECURITY_ENABLE") == "true" else []


def _document(name: str) -> dict[str, Any]:
    """A graph document, merged with the documents that it extends."""
    path = _beside(Path(), "graphs", name)
    if not path.is_file():
        raise FileNotFoundError(f"graph {name!r} does not exist; choose one of {', '.join(graphs())}")
    own = _read(path)
    if unknown := set(own) - set(DOCUMENT):
        raise ValueError(f"{path}: {sorted(unknown)[0]!r} is no entry of a graph; use {', '.join(DOCUMENT)}")
    for node, entry in (own.get("nodes") or {}).items():
        if unknown := set(entry or {}) - set(NODE):
            raise ValueError(f"{path}: {sorted(unknown)[0]!r} is no entry of node {node!r}; use {', '.join(NODE)}")
    own["parameters"] = [_beside(path, "parameters", each) for each in own.get("parameters") or []]
    base = {"nodes": {}, "without": [], "parameters": [], "on_exit": RESTART}
    return _merge(_document(str(_beside(path, "graphs", own["extends"]))) if own.get("extends") else base, own)


def _beside(document: Path, kind: str, name: str) -> Path:
    """The file that a document names: a path relative to it, or the name of a file of the package."""
    return document.parent / name if name.endswith(".yaml") else config_directory() / kind / f"{name}.yaml"


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    nodes = {name: dict(entry) for name, entry in base["nodes"].items()}
    for name, entry in (own.get("nodes") or {}).items():
        merged, entry = nodes.setdefault(name, {}), entry or {}
        remap = {**merged.get("remap", {}), **(entry.get("remap") or {})}
        merged |= entry | ({"remap": remap} if remap else {})
    return {
        "nodes": nodes,
        "without": [*base["without"], *(own.get("without") or [])],
        "parameters": [*base["parameters"], *(own.get("parameters") or [])],
        "on_exit": own.get("on_exit", base["on_exit"]),
    }


def _executable_of(document: dict[str, Any], node: str) -> str:
    return document["nodes"].get(node, {}).get("executable", node)


def _with_section(document: dict[str, Any], values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Apply the section `graph` of a parameter file of version 0.1; each entry replaces that of the graph."""
    warnings.warn(
        f"{path} changes the graph in a section 'graph'; write a document that extends it instead (see config/graphs)",
        FutureWarning,
        stacklevel=3,
    )
    before = document["nodes"]
    conditions = {name: entry["when"] for name, entry in before.items() if entry.get("when")}
    always = values.get("nodes", [name for name in before if name not in conditions])
    for flag in (name.removeprefix("when.") for name in values if name.startswith("when.")):
        conditions = {name: when for name, when in conditions.items() if when != flag}
        conditions |= dict.fromkeys(values[f"when.{flag}"], flag)
    nodes = {}
    for name in dict.fromkeys([*always, *conditions]):
        entry = before.get(name, {"executable": SIMULATION} if name == SIMULATION_BEFORE else {})
        nodes[name] = entry | {"when": None if name in always else conditions[name]}
        if f"remap.{name}" in values:
            nodes[name]["remap"] = dict(rule.split(":=", 1) for rule in values[f"remap.{name}"])
    replaced = {name: values[name] for name in ("without", "on_exit") if name in values}
    return document | {"nodes": nodes} | replaced


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"parameter file {path} does not exist")
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no sections of parameters")
    return document


def _read_sections(path: Path) -> dict[str, dict[str, Any]]:
    """Section name, without its namespace -> parameters by dotted name."""
    sections = {}
    for name, section in _read(path).items():
        if not isinstance(section, dict) or not isinstance(section.get("ros__parameters"), dict):
            raise ValueError(f"{path}: section {name!r} has no 'ros__parameters'")
        sections[name.rsplit("/", 1)[-1]] = dict(_flatten(section["ros__parameters"]))
    return sections


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
