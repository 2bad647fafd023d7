# SPDX-License-Identifier: MIT
"""The rooms of the package: what may import what, and that no room stands outside the plan."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
FLOORS = [name.strip() for floor in CONTRACTS[0]["layers"] for name in floor.split(":")]


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=directory, capture_output=True, text=True)


def test_every_import_keeps_the_contracts():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def test_every_room_has_a_floor():
    package = ROOT / "efn_ros"
    rooms = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert {f"efn_ros.{room}" for room in rooms - {"__init__", "experiments"}} == set(FLOORS)


@pytest.mark.parametrize(
    ("room", "line", "contract"),
    [
        ("bank", "from efn_ros.retrieval import retriever", "A room imports only rooms below it"),
        ("nodes", "from efn_ros.experiments import sac", "Nothing imports an experiment"),
        ("robots", "import rclpy", "What decides runs without ROS"),
    ],
)
def test_an_import_that_breaks_a_contract_is_found(tmp_path, room, line, contract):
    package = tmp_path / "efn_ros"
    for name in (*FLOORS, "efn_ros.experiments.sac", "efn_ros.retrieval.retriever"):
        module = tmp_path / name.replace(".", "/") / "__init__.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.touch()
    for folder in (package, package / "experiments"):
        (folder / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    assert lint_imports(tmp_path).returncode == 0

    (package / room / "__init__.py").write_text(line + "\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and f"{contract} BROKEN" in done.stdout, done.stdout


def test_test_files_have_names_of_their_own():
    """The pytest plugin of launch_testing imports test files by name alone."""
    names = [path.name for path in (ROOT / "test").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}


def test_only_the_trainer_needs_torch_before_it_loads_a_network():
    """Torch takes a second and more to load; a node without a network starts in less than half of one."""
    names = {path.stem for path in (ROOT / "efn_ros" / "nodes").glob("[a-z]*.py")} - {"efn_trainer"}
    imports = "\n".join(f"import efn_ros.nodes.{name}" for name in sorted(names))
    program = f"import sys\n{imports}\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
