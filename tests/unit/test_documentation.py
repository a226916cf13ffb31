"""What the documentation points at is there."""

import fnmatch
import json
import re
import statistics
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


@pytest.mark.parametrize("page", [REPO / "README.zh.md", REPO / "docs" / "gain.md"], ids=name)
def test_a_gain_that_is_promised_was_measured_and_its_results_are_named(page):
    text = page.read_text("utf-8")
    measured = (REPO / "docs" / "performance.md").read_text("utf-8") + (REPO / "README.md").read_text("utf-8")
    results = re.findall(r"(\w+\.json)`", text)
    assert len(set(results)) >= 6
    assert [file for file in results if not (REPO / "benchmarks" / "results" / file).exists()] == []
    assert [gain for gain in re.findall(r"\d+\.\d+x", text) if gain not in measured] == []


FILMS = [(2, "dense"), (2, "ComfyUI's defaults"), (6, "drawn anew"), (2, "bank")]  # shots in a window, rule


@pytest.mark.parametrize("page", [REPO / "README.md", REPO / "README.zh.md"], ids=name)
def test_what_a_page_says_of_films_longer_than_a_window_was_measured(page):
    table = re.search(r"^\| 24 .*\n\|[-|]+\n((?:\|.*\n)+)", page.read_text("utf-8"), re.MULTILINE)
    assert table
    said = [[float(cell.strip(" *")) for cell in line.split("|")[2:-1]] for line in table[1].splitlines()]
    rows = json.loads((REPO / "benchmarks" / "results" / "windows_h200.json").read_text("utf-8"))["rows"]
    for (together, rule), (likeness, contrast, off) in zip(FILMS, said, strict=True):
        some = [row for row in rows if (row["shots"], row["together"], row["rule"]) == (24, together, rule)]
        across, spread, pixels = (statistics.mean(row[key] for row in some) for key in ("across", "contrast", "off"))
        assert (likeness, contrast, off) == (round(across, 3), round(spread, 2), round(pixels, 2)), rule


def test_the_changelog_begins_with_the_version_of_the_pack():
    version = re.search(r'^version = "(.+)"$', (REPO / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    said = re.findall(r"^## (\S+)", (REPO / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert version and said[0] == version[1]
    saved = {folder.name for folder in (REPO / "tests" / "workflow" / "released").iterdir()}
    assert saved == set(said)
