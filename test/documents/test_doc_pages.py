# SPDX-License-Identifier: MIT
"""Every page: its links lead somewhere, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import PAGES, ROOT, name_of, prose

from efn_ros import commands
from efn_ros.commands._subcommands import modules
from efn_ros.resources import config_directory

pages = pytest.mark.parametrize("page", PAGES, ids=name_of)
ROOMS = "efn_ros|config|launch|test|bench|msg|srv|action|examples|docs|rosdep|typings"


@pages
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), f"{target} leaves the checkout"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], target


@pages
def test_what_is_named_in_the_text_exists(page: Path):
    """Commands of ./efn, and paths of this repository in code."""
    text = prose(page)
    known = {*modules(commands), "setup", "shell", "env"}
    for command in re.findall(r"\./efn ([a-z][\w-]*)", text):
        assert command in known, command
    for name in re.findall(rf"`((?:{ROOMS})/[\w./-]+)`", text):
        assert (ROOT / name).exists() or name.startswith("bench/results") or "/checkpoint" in name, name
    for name in re.findall(r"config/deployments/(\w+)\.yaml", text):
        assert (config_directory() / "deployments" / f"{name}.yaml").is_file(), name


@pages
def test_code_stands_in_fences_alone(page: Path):
    """Nothing checks an indented block."""
    assert not re.findall(r"\n\n(?: {4}|\t)(?![*\-\d ]).*", prose(page))
