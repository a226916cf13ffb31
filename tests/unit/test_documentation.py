"""What the documentation points at is there."""

import fnmatch
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(p for folder in (".", "docs", "js/docs", "demo") for p in (REPO / folder).glob("*.md"))
OF_FILES = [REPO / "CONTRIBUTING.md", REPO / "docs" / "architecture.md", REPO / "docs" / "kernels.md"]
FOLDERS = ("moc", "nodes", "js", "tests", "docs", "benchmarks", "demo", "workflows")
TITLE = re.compile(r"^#+ (.*)$", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(REPO))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of the titles."""
    titles = TITLE.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_repository_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", OF_FILES, ids=name)
def test_every_file_that_a_map_of_the_code_names_is_there(page):
    named = re.findall(r"`([\w/.*-]+(?:\.py|\.js|\.mjs|\.json|\.md|/))(?::\w+)?`", page.read_text("utf-8"))
    there = [f"/{name(REPO / path)}" for folder in FOLDERS for path in (folder, *(REPO / folder).rglob("*"))]
    missing = [path for path in named if not fnmatch.filter(there, f"*/{path.rstrip('/')}")]
    assert named
    assert not missing
