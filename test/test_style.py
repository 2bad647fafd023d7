# SPDX-License-Identifier: MIT
"""Habits that no tool knows: licence headers, documented fields, files of one idea."""

from __future__ import annotations

import ast
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "efn_ros").rglob("*.py"))
SOURCES = {".py", ".pyi", ".msg", ".srv", ".action", ".cpp", ".hpp", ".sh"}
LICENCE = "SPDX-License-Identifier: MIT"
MAX_LINES = 350  # a file that needs more holds more than one idea


def field_comments():
    """Return the module that gives the documentation site the comments of fields."""
    spec = spec_from_file_location("field_comments", ROOT / "docs/_site/field_comments.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_source_file_names_its_licence():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = listed.stdout.split() if listed.returncode == 0 else [str(p.relative_to(ROOT)) for p in PACKAGE]
    sources = [ROOT / name for name in names if Path(name).suffix in SOURCES or name in ("efn", "CMakeLists.txt")]
    assert len(sources) > len(PACKAGE) / 2
    missing = [str(path) for path in sources if path.is_file() and LICENCE not in _head(path)]
    assert not missing


def _head(path: Path) -> str:
    return "".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:2])


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_field_of_a_dataclass_has_a_line_and_a_comment_of_its_own(path: Path):
    comment_of = field_comments().comment_of
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef) or not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            continue
        for field in (statement for statement in node.body if isinstance(statement, ast.AnnAssign)):
            name = f"{node.name}.{ast.unparse(field.target)}, line {field.lineno}"
            assert comment_of(path, field.lineno, field.end_lineno), f"{name}: say beside it what it is"


def test_no_file_is_longer_than_a_reader_can_hold():
    lines = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in PACKAGE}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}
