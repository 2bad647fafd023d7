# SPDX-License-Identifier: MIT
"""What ROS 2's tools, GitHub and pre-commit read of this repository fits the code and each other."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from catkin_pkg.changelog import get_changelog_from_path
from catkin_pkg.package import parse_package
from command_lines import check_command
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
ROSDEP = ROOT / "rosdep" / "efn_ros.yaml"
# Import names whose rosdep key or ROS package is not `python3-<name>` or the name itself.
KEYS = {
    "PIL": "python3-pil", "cv2": "python3-opencv", "yaml": "python3-yaml", "tokenizers": "python3-transformers-pip",
}  # fmt: skip
# What a user adds for one world or tool; every use of it is guarded, and says what to install.
OPTIONAL = {"genie_msgs", "libero", "robosuite", "sros2"}


def imports() -> set[str]:
    """Return the names of all foreign packages that the package imports when it runs."""
    found = set()
    for path in (ROOT / "efn_ros").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):  # what is imported for type checkers alone is not there when the code runs
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"efn_ros"}


def test_package_xml_names_every_package_that_the_code_imports():
    declared = {dependency.name for dependency in parse_package(str(ROOT)).exec_depends}
    missing = {
        name
        for name in imports() - OPTIONAL
        if not declared & {KEYS.get(name, name), f"python3-{name}", f"python3-{name}-pip"}
    }
    assert not missing


def test_package_xml_is_complete():
    package = parse_package(str(ROOT), warnings=(warnings := []))
    package.validate(warnings=warnings)
    assert not warnings
    assert all("example.org" not in str(maintainer.email) for maintainer in package.maintainers)
    root = ElementTree.parse(ROOT / "package.xml").getroot()
    keys = {element.text for element in root if element.tag.endswith("depend")}
    assert yaml.safe_load(ROSDEP.read_text()).keys() <= keys, "a key of our rosdep file is not used"


@pytest.mark.parametrize("key", sorted(yaml.safe_load(ROSDEP.read_text())))
@pytest.mark.parametrize("system", ["ubuntu:noble", "ubuntu:jammy", "debian:bookworm"])
def test_rosdep_resolves_our_keys_to_what_is_pinned(key: str, system: str, tmp_path: Path):
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "10-efn_ros.list").write_text(f"yaml file://{ROSDEP}\n")
    index = tmp_path / "index.yaml"
    index.write_text("{type: index, version: 4, distributions: {}}\n")
    environment = {
        **os.environ,
        "ROSDEP_SOURCE_PATH": str(tmp_path / "sources"),
        "ROS_HOME": str(tmp_path),
        "ROSDISTRO_INDEX_URL": f"file://{index}",
        "ROS_DISTRO": "jazzy",
    }

    def rosdep(*words: str) -> str:
        program = Path(sys.executable).with_name("rosdep")
        done = subprocess.run([program, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    rosdep("update", "--include-eol-distros")
    installer, *names = [line for line in rosdep("resolve", key, "--os", system).splitlines() if line]
    assert installer == "#pip"
    pinned = {
        Requirement(line).name
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert set(names) <= pinned


def test_versions_agree():
    version = parse_package(str(ROOT)).version
    for name, pattern in (
        ("pyproject.toml", r'^version = "(.*)"$'),
        ("CITATION.cff", r"^version: (.*)$"),
    ):
        assert re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE) == [version], name


def test_the_changelog_is_read_as_bloom_reads_it():
    changelog = get_changelog_from_path(str(ROOT), "efn_ros")
    versions = [version for version, _, _ in changelog.foreach_version()]
    assert parse_package(str(ROOT)).version in versions
    for _, _, content in changelog.foreach_version():
        assert content and all(str(item).strip() for item in content)


def test_the_workflow_runs_commands_that_exist():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    ran = [step["run"] for step in steps if "run" in step]
    assert ran and all("uses" in step or "run" in step for step in steps)
    for text in ran:
        for words in re.findall(r"\./efn [^\n&|;]*", text):
            check_command(words.split())
    assert ".ci/run" in ran and os.access(ROOT / ".ci/run", os.X_OK)


def test_the_hooks_of_pre_commit_run_commands_that_exist():
    clientlib = pytest.importorskip("pre_commit.clientlib")
    config = clientlib.load_config(ROOT / ".pre-commit-config.yaml")
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {"ruff", "ruff-format", "pyright", "codespell", "pages", "imports"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        check_command(hook["entry"].split())


@pytest.mark.parametrize("form", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_forms_of_issues_are_those_of_github(form: Path):
    content = yaml.safe_load(form.read_text())
    if form.name == "config.yml":
        assert "blank_issues_enabled" in content
        return
    assert {"name", "description", "body"} <= content.keys()
    assert all(part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes") for part in content["body"])
