"""The documents: reference pages are those of the code, links lead somewhere, and examples run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import own_domain

from efn_ros import commands
from efn_ros.commands import _reference as reference
from efn_ros.commands._subcommands import modules
from efn_ros.commands.main import main
from efn_ros.resources import config_directory
from efn_ros.runtime.graph import Graph

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_reference_pages_are_those_of_the_code():
    assert main(["docs", "--check"]) == 0, "run ./efn docs"


def test_a_page_that_differs_is_named_and_written_anew(tmp_path, capsys):
    for name in ("msg", "srv", "action", "launch"):
        (tmp_path / name).symlink_to(ROOT / name)
    words = ["docs", "--root", str(tmp_path)]
    assert main([*words, "--check"]) == 1 and not (tmp_path / "docs").exists()
    assert main(words) == 0 and main([*words, "--check"]) == 0
    page = tmp_path / "docs/reference/graphs.md"
    page.write_text(page.read_text() + "by hand")
    assert main([*words, "--check"]) == 1
    assert "docs/reference/graphs.md differs from the code: run ./efn docs" in capsys.readouterr().out


def test_every_interface_field_and_node_parameter_is_there():
    pages = reference.pages(ROOT)
    for path in [*(ROOT / "msg").iterdir(), *(ROOT / "srv").iterdir(), *(ROOT / "action").iterdir()]:
        assert f"### {path.stem}\n" in pages["interfaces.md"]
    for name in ("`int32` | `selected (default -1)` | index of the step", "Request:", "`OUTCOME_ABORTED=3`"):
        assert name in pages["interfaces.md"]
    executables = re.findall(r'"(\w+) = efn_ros\.', (ROOT / "setup.py").read_text())
    assert executables
    for name in executables:
        assert f"## {name}\n" in pages["parameters.md"]
    assert "| `limits.jerk` | double[] | `[.inf]` |" in pages["parameters.md"]
    assert "| `on_exit` | `''` | `''`, `restart`, `stop` |" in pages["graphs.md"]
    assert "&lt;name>" in pages["parameters.md"], "a placeholder would vanish as HTML"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_exists(path: Path):
    """Commands of ./efn, options of them, and files of this repository in code."""
    text = path.read_text(encoding="utf-8")
    known = {*modules(commands), "setup", "shell", "env"}
    for command in re.findall(r"\./efn ([a-z][\w-]*)", text):
        assert command in known, command
    for name in re.findall(r"`((?:efn_ros|config|launch|test|bench|msg|srv)/[\w./-]+)`", text):
        assert (ROOT / name).exists() or name.startswith("bench/results") or "/checkpoint" in name, name
    for name in re.findall(r"config/deployments/(\w+)\.yaml", text):
        assert (config_directory() / "deployments" / f"{name}.yaml").is_file(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_parameter_files_in_the_text_fit_the_graph(path: Path, tmp_path: Path):
    for i, block in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)):
        overlay = tmp_path / f"{i}.yaml"
        overlay.write_text(block)
        declared = {n: {p.name for p in reference.node_class(n).PARAMETERS} for n in reference.executables()}
        plain, laid = Graph.load("metaworld_sim", learn=True), Graph.load("metaworld_sim", [overlay])
        assert laid != Graph.load("metaworld_sim"), "it changes nothing"
        for node in laid.nodes:
            new = node.parameters.keys() - plain.parameters(node.name).keys()
            assert new <= declared[node.executable], (node.executable, new)


PUBLISHER = """
import rclpy
from efn_ros.msg import ActionChunk, CorrectedAction
from efn_ros.ros.qos import KEPT_STEPS

rclpy.init()
node = rclpy.create_node("efn_corrector", namespace="efn")
action = CorrectedAction(mode=CorrectedAction.CORRECTED, confidence=0.8)
action.context.episode_id, action.context.step = "seven", 3
action.corrected = ActionChunk(horizon=2, action_size=2, data=[0.25, -1.0, 0.5, 0.5])
publisher = node.create_publisher(CorrectedAction, "corrected_action", KEPT_STEPS)
node.create_timer(0.1, lambda: publisher.publish(action))
rclpy.spin(node)
"""


@pytest.mark.integration
def test_the_example_for_integrators_runs():
    example = next(
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "create_subscription" in code
    )
    with own_domain() as domain:
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
        publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=environment)
        listener = subprocess.Popen([sys.executable, "-c", example], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            line = listener.stdout.readline()
        finally:
            for process in (publisher, listener):
                process.kill()
                process.wait()
    for part in ("seven", "3", "0.25", "-1."):
        assert part in line
