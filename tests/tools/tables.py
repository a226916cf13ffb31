"""Writes the tables of presets and choices into the pages that show them: python -m tests.tools.tables

A table stands between the two comments that name it; all around them is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.unit.pack import load

REPO = Path(__file__).resolve().parents[2]
config = load("moc.config")
sentences = load("nodes.widgets.sentences")


def presets() -> str:
    rows = (f"| {name} | {preset.sees} | {preset.use} |\n" for name, preset in config.NAMED.items())
    return "| preset | what every token sees | |\n|---|---|---|\n" + "".join(rows)


def choices() -> str:
    rows = []
    for name, about in sentences.ABOUT.items():
        told = ". ".join(f"`{choice}`: {sentence}" for choice, sentence in sentences.choices_of(name).items())
        more = f" {sentences.MORE[name]}" if name in sentences.MORE else ""
        rows.append(f"| {name} | {about} {told}.{more} |\n")
    return "| input | choices |\n|---|---|\n" + "".join(rows)


def sources() -> str:
    rows = []
    for part, entries in (("descriptor of a chunk", config.DESCRIPTORS), ("rule", config.RULES)):
        for i, (name, entry) in enumerate(entries.items()):
            rows.append(f"| {'' if i else part} | `{name}`: {entry.sentence} | {entry.source or 'ours'} |\n")
    return "| part | choices | where it comes from |\n|---|---|---|\n" + "".join(rows)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "js/docs/MoCRouting.md": {"presets": presets, "choices": choices},
    "docs/routing.md": {"sources": sources},
}


def written(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The page with its tables as they should be."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by tests/tools/tables.py -->\n", f"<!-- end of {name} -->\n"
        above, found, rest = page.partition(begin)
        _, closed, below = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page has no place for the table {name}: write {begin + end!r} into it")
        page = above + begin + "\n" + table() + "\n" + end + below
    return page


if __name__ == "__main__":
    for path, tables in PAGES.items():
        file = REPO / path
        file.write_text(written(file.read_text("utf-8"), tables), encoding="utf-8")
