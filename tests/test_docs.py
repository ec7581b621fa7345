"""Links of README, CONTRIBUTING and docs lead to files that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)#:\s]+\.md)(?:#[^)]*)?\)", page.read_text())
        waiting += [(page.parent / link).resolve() for link in links]
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {page.name for page in seen} == set()


def test_the_site_has_every_page_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = list(_named(site["nav"]))
    # docs/hook.py makes tour.md of the notebook.
    assert sorted(pages) == sorted(["tour.md", *(page.name for page in PAGES)])
    assert site["theme"]["font"] is False


def _named(nav: Any) -> Iterator[str]:
    """Files in the navigation: a list of files, or of {title: file} and {title: list}."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else _named(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lists_and_tables_begin_after_an_empty_line(page: Path) -> None:
    # GitHub shows them either way; the site would run them into the paragraph.
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.M | re.S).split("\n")
    start = re.compile(r"([-*]|\d+\.) |\|")
    pairs = pairwise(text)
    assert [
        line
        for above, line in pairs
        if start.match(line) and above and not re.match(r"\s|<!--", above) and not start.match(above)
    ] == []
