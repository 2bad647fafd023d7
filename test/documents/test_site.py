# SPDX-License-Identifier: MIT
"""The documentation site: it builds without a warning, and every page of the documents and every module is on it."""

from __future__ import annotations

from documents import PAGES, ROOT, name_of

from efn_ros.commands.main import main


def test_the_site_builds_with_every_page_and_every_module(tmp_path, capfd):
    assert main(["docs", "--site", str(tmp_path)]) == 0, capfd.readouterr()
    for page in PAGES:
        name = name_of(page)
        if name.startswith("docs/"):
            place = tmp_path / name.removeprefix("docs/").removesuffix(".md")
            assert (place / "index.html").is_file() or place.with_suffix(".html").is_file(), name
    for path in (ROOT / "efn_ros").rglob("*.py"):
        if not path.name.startswith("_"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert (tmp_path / "reference/api" / module / "index.html").is_file(), module
    api = (tmp_path / "reference/api/efn_ros.types/index.html").read_text()
    assert "Output of the frozen policy for one observation" in api and "base action chunk (H, A), (2)" in api
