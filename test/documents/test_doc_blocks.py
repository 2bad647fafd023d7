# SPDX-License-Identifier: MIT
"""Every fenced block is what its language says: commands parse, parameters fit, programs have true types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from command_lines import check_command, commands
from documents import PAGES, ROOT, Block, blocks, name_of

from efn_ros.commands._reference import node_class
from efn_ros.runtime.experiments import OPTIONS
from efn_ros.runtime.graph import Graph

LANGUAGES = {"bash", "python", "yaml", "json", "xml", "cpp", "text", "mermaid", "bibtex"}


def parametrize(language: str):
    """One test for each block of a language."""
    return pytest.mark.parametrize("block", blocks(*PAGES, language=language), ids=lambda block: block.name)


def test_every_block_names_its_language():
    assert not [block.name for block in blocks(*PAGES) if block.language not in LANGUAGES]


@parametrize("bash")
def test_commands_parse(block: Block):
    assert subprocess.run(["bash", "-n"], input=block.text, text=True, stderr=subprocess.STDOUT).returncode == 0
    assert not re.search(r"<\w[\w -]*>|\.\.\.", block.text), "a placeholder cannot be pasted"
    for words in commands(block.text):
        check_command(words)


@pytest.mark.integration
def test_topics_services_and_actions_in_commands_are_those_of_the_nodes():
    from efn_ros.commands import _sros2

    graphs = ("metaworld_sim", "arm_7dof", "agibot_g1", "agibot_g1_dry_run")
    rights = "".join(map(_sros2.policy, graphs))
    known = {f"/{name.lstrip('/')}" for name in re.findall(r"<(?:topic|service|action)>([^<]+)<", rights)}
    known |= {"/diagnostics", "/clock", "/rosout"}
    lines = [words for block in blocks(*PAGES, language="bash") for words in commands(block.text)]
    with_ros2 = [words for words in lines if words[0] == "ros2"]
    assert with_ros2
    for words in with_ros2:
        for name in (word for word in words if re.fullmatch(r"/efn/[\w/]+", word) or word == "/diagnostics"):
            node = name.removeprefix("/efn/")
            inside = any(other.startswith(f"{name}/") for other in known)  # a node or an action
            assert name in known or (inside and words[1] in ("lifecycle", "param", "node", "action")), (node, words)


# Parameters and data.


@parametrize("yaml")
def test_parameters_fit_their_graph(block: Block, tmp_path: Path):
    if block.note == "not parameters":
        assert yaml.safe_load(block.text)
        return
    overlay = tmp_path / "parameters.yaml"
    overlay.write_text(block.text)
    name = block.note.removeprefix("graph: ") or "metaworld_sim"
    name = str(ROOT / name) if name.endswith(".yaml") else name
    plain, laid = Graph.load(name), Graph.load(name, [overlay])
    assert laid != plain, "it changes nothing"
    flags = dict.fromkeys(plain.optional, True)
    for node in Graph.load(name, [overlay], **flags).nodes:
        declared = {parameter.name for parameter in node_class(node.executable).PARAMETERS}
        before = {n.name: n.parameters for n in Graph.load(name, **flags).nodes}[node.name]
        new = {p for p in node.parameters.keys() - before.keys() if not p.startswith(OPTIONS)}
        assert new <= declared, (node.executable, new)


def test_data_parses():
    for block in blocks(*PAGES):
        {"json": json.loads, "xml": ElementTree.fromstring}.get(block.language, str)(block.text)


def test_cpp_is_a_quotation_of_an_example():
    sources = [path.read_text() for path in (ROOT / "examples").rglob("*") if path.suffix in (".cpp", ".hpp")]
    for block in blocks(*PAGES, language="cpp"):
        assert any(block.text.strip() in source for source in sources), block.name


# Programs.


def test_python_has_true_names_and_types(tmp_path):
    """The blocks of a page are one program; pyright knows every name, argument and type in it."""
    for page in PAGES:
        if found := blocks(page, language="python"):
            name = name_of(page).removesuffix(".md").replace("/", "_").replace("-", "_")
            (tmp_path / f"{name}.py").write_text("\n\n".join(block.text for block in found))
    config = json.loads((ROOT / "pyrightconfig.json").read_text())
    config |= {"include": ["."], "extraPaths": [str(ROOT), str(ROOT / "examples")], "stubPath": str(ROOT / "typings")}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [Path(sys.executable).with_name("pyright"), "-p", tmp_path], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
