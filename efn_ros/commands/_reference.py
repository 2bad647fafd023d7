"""Reference pages out of what they describe: interface files, the nodes' parameters, the launch files' arguments."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from efn_ros.runtime.graph import Graph, robots

MADE = "<!-- Made by `./efn docs`; edit what it is made from instead. -->"


def pages(root: Path) -> dict[str, str]:
    """File name -> text of every page."""
    return {"interfaces.md": interfaces(root), "parameters.md": parameters(), "launch.md": launch(root)}


# Interfaces.


def interfaces(root: Path) -> str:
    text = [
        MADE,
        "# Interfaces",
        "Arrays are row-major; the letters of their sizes are explained where they first occur.",
    ]
    for title, kind, parts in (("Messages", "msg", ("",)), ("Services", "srv", ("Request", "Response"))):
        text.append(f"## {title}")
        for path in sorted((root / kind).glob(f"*.{kind}")):
            about, *_ = sections = [_interface(part) for part in path.read_text().split("---\n")]
            text += [f"### {path.stem}", about[0]]
            for heading, (_, rows) in zip(parts, sections, strict=True):
                if heading:
                    text.append(f"{heading}:")
                text.append(_table(["type", "name", "meaning"], rows))
    return "\n\n".join(text) + "\n"


def _interface(text: str) -> tuple[str, list[list[str]]]:
    """The comment it begins with, and a row for each field or constant."""
    about, rows = [], []
    for line in text.splitlines():
        declaration, _, comment = (part.strip() for part in line.partition("#"))
        if declaration:
            kind, name, *default = declaration.split(maxsplit=2)
            name += f" (default {default[0]})" if default else ""
            rows.append([f"`{kind}`", f"`{name}`", comment])
        elif comment and not rows:
            about.append(comment)
    return " ".join(about), rows


# Parameters.


def parameters() -> str:
    from efn_ros.ros.node import COMMON

    text = [
        MADE,
        "# Nodes and their parameters",
        "Parameters are read once, when a node is configured, and are read-only after. The values of a robot stand in "
        "`config/<robot>.yaml`, which is laid over these defaults. Names of topics and services are relative to the "
        "node's namespace, `efn` by default; `~/` is the node's own name.",
        "## Every node",
        _parameter_table(COMMON),
        "Out: `/diagnostics`. Beside it every node has the services of a lifecycle node.",
    ]
    for name, node in nodes():
        text += [f"## {name}", _prose(" ".join(inspect.getdoc(node).split())), _parameter_table(node.PARAMETERS)]
    return "\n\n".join(text) + "\n"


def nodes() -> Iterator[tuple[str, type]]:
    """Executable and class of every node."""
    from efn_ros import nodes as package
    from efn_ros.ros.node import EfnNode

    for module in pkgutil.iter_modules(package.__path__):
        imported = importlib.import_module(f"efn_ros.nodes.{module.name}")
        for value in vars(imported).values():
            if isinstance(value, type) and issubclass(value, EfnNode) and value.__module__ == imported.__name__:
                yield module.name, value


def _parameter_table(parameters: Sequence) -> str:
    rows = [
        [f"`{p.name}`", _type(p.default), f"`{_value(p.default)}`", _range(p.least, p.most), p.description]
        for p in parameters
    ]
    return _table(["name", "type", "default", "range", "meaning"], rows)


def _type(default: Any) -> str:
    if isinstance(default, list):
        return f"{_type(default[0])}[]"
    return {bool: "bool", int: "integer", float: "double", str: "string"}[type(default)]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isinf(value):
        return ".inf"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _range(least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return ""
    return f"at least {least:g}" if most is None else f"{least:g} to {most:g}"


# Launch files.


def launch(root: Path) -> str:
    text = [
        MADE,
        "# Launch files",
        "`ros2 launch efn_ros <file>` where ROS 2's `launch` is; `./efn bringup <robot>` everywhere. Both read "
        "`config/<robot>.yaml` and start the same executables with the same parameters.",
    ]
    known = robots()
    for path in sorted((root / "launch").glob("*.launch.py")):
        robot = path.name.partition(".")[0]
        text += [f"## {path.name}", " ".join(ast.get_docstring(ast.parse(path.read_text())).split())]
        if robot in known:
            graph = Graph.load(robot)
            names = ", ".join(f"`{node.executable}`" for node in graph.nodes)
            added = [f"`{name}` where `{flag}` is true" for flag, more in graph.optional.items() for name in more]
            text.append(f"Nodes: {', '.join([names, *added])}. Upon the death of one: {graph.on_exit}.")
            renamed = [[f"`{node.executable}`", f"`{a}`", f"`{b}`"] for node in graph.nodes for a, b in node.remappings]
            if renamed:
                text.append(_table(["node", "name", "remapped to"], renamed))
    text += [
        "## Arguments of every launch file",
        "Given as `name:=value`.",
        _table(["name", "default", "values", "meaning"], _arguments()),
    ]
    text += ["## Arguments of ./efn bringup", _table(["argument", "default", "meaning"], _options())]
    return "\n\n".join(text) + "\n"


def _arguments() -> Iterator[list[str]]:
    """Read off the source: `launch` itself is not on every machine."""
    source = (Path(__file__).parents[1] / "ros" / "launching.py").read_text()
    tree = ast.parse(source)
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            constants[node.targets[0].id] = ast.literal_eval(node.value)
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DeclareLaunchArgument":
            given = {k.arg: _literal(k.value, constants) for k in call.keywords}
            values = ", ".join(f"`{value or repr(value)}`" for value in given.get("choices", ()))
            yield [f"`{call.args[0].value}`", f"`{given['default_value'] or repr('')}`", values, given["description"]]


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    """A literal, or list(NAME) of a constant."""
    if isinstance(node, ast.Call):
        return list(constants[node.args[0].id])
    return ast.literal_eval(node)


def _options() -> Iterator[list[str]]:
    from efn_ros.commands import bringup

    parser = argparse.ArgumentParser(add_help=False)
    bringup.add_arguments(parser)
    for action in parser._actions:
        name = " ".join(action.option_strings) or action.dest
        choices = f" {{{', '.join(action.choices)}}}" if action.choices else ""
        default = "" if action.default in (None, False, []) else f"`{action.default}`"
        yield [f"`{name}{choices}`", default, action.help or ""]


def _table(header: Sequence[str], rows) -> str:
    """A Markdown table; unlike those of results, its cells are words."""
    cells = [[_prose(cell).replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _prose(text: str) -> str:
    """`<name>` outside of code would be taken for HTML."""
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)
