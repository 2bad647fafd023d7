# SPDX-License-Identifier: MIT
"""Pages of the site that are no files of `docs/`: the front page, those beside it, and one page for each module."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "QUALITY_DECLARATION.md": "quality.md"}
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
API = "reference/api"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, page in BESIDE.items():
        text = _rewrite((ROOT / name).read_text(encoding="utf-8"), "")
        files.append(File.generated(config, page, content=text))
    modules = sorted(path for path in (ROOT / "efn_ros").rglob("*.py") if not path.name.startswith("_"))
    for path in modules:
        module = _module(path)
        files.append(File.generated(config, f"{API}/{module}.md", content=f"# {module}\n\n::: {module}\n"))
    rooms: dict[str, list[str]] = {}
    for path in modules:
        rooms.setdefault(path.relative_to(ROOT / "efn_ros").parts[0].removesuffix(".py"), []).append(_module(path))
    lines = [
        "# Python API",
        "One page for each module, by room; [architecture](../../explanation/architecture.md) says what a room is.",
    ]
    for room, names in rooms.items():
        lines += [f"## {room}", *(f"* [{name}]({name}.md)" for name in names), ""]
    files.append(File.generated(config, f"{API}/index.md", content="\n".join(lines)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of `docs/` to the page that stands for their target."""
    return _rewrite(markdown, f"docs/{page.file.src_uri}") if page.file.generated_by is None else markdown


def _rewrite(text: str, source: str) -> str:
    """Rewrite links of a document at `source`, relative to the checkout; a link without a page becomes its text."""
    here = posixpath.dirname(source)
    site = posixpath.relpath(here or "docs", "docs")

    def replaced(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return found[0]
        place = posixpath.normpath(posixpath.join(here, path))
        page = _page_of(place)
        if page is None:
            return label.lstrip("!").strip("[]")
        return f"{label}({posixpath.relpath(page, site)}{hash_}{anchor})"

    return LINK.sub(replaced, text)


def _page_of(place: str) -> str | None:
    """Return the page that stands for a file of the checkout, relative to the site."""
    if place in BESIDE:
        return BESIDE[place]
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    if place.startswith("efn_ros/") and place.endswith(".py") and not posixpath.basename(place).startswith("_"):
        return f"{API}/{_module(ROOT / place)}.md"
    return None


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
