"""Writes the tables of presets and choices into the pages that show them: python -m tests.tools.tables

A table stands between the two comments that name it; all around them is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.unit.pack import load

REPO = Path(__file__).resolve().parents[2]
config = load("moc.config")
published = load("moc.methods")
sentences = load("nodes.widgets.sentences")


def presets() -> str:
    rows = (f"| {name} | {preset.sees} | {preset.use} |\n" for name, preset in config.NAMED.items())
    return "| preset | what every token sees | |\n|---|---|---|\n" + "".join(rows)


def qualities() -> str:
    rows = (
        f"| {name} | {q.settings.routing.sentence} | {q.gain:.1f}x | {q.error:.1%} |\n"
        for name, q in config.QUALITIES.items()
    )
    head = "| quality | what every token sees | attention at 720p | its output, off full attention |\n"
    return head + "|---|---|---|---|\n" + "".join(rows)


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


def methods() -> str:
    """For users."""
    rows = (f"| {name} | {method.sees} | {method.source} |\n" for name, method in published.METHODS.items())
    return "| method | what every token sees | source |\n|---|---|---|\n" + "".join(rows)


def method_parts() -> str:
    """For readers of code: what each is made of here."""
    rows = []
    for name, method in published.METHODS.items():
        settings = method.settings
        parts = "; in turn ".join(_settings(routing) for routing in settings.routings)
        dense = [f"steps up to {settings.schedule.start_percent:.0%}"] * (settings.schedule.start_percent > 0)
        dense += [f"block {block}" for block in range(settings.schedule.dense_first)]
        others = "; ".join(f"{of}: {_changes(settings, other)}" for of, other in method.models.items())
        rows.append(f"| {name} | {parts} | {', '.join(dense) or '-'} | {others or '-'} | {method.differs or '-'} |\n")
    head = "| method | parts | dense | its authors' other settings | what differs |\n"
    return head + "|---|---|---|---|---|\n" + "".join(rows)


def method_errors() -> str:
    """From benchmarks/results/methods.json."""
    found = json.loads((REPO / "benchmarks" / "results" / "methods.json").read_text("utf-8"))["results"]
    targets = sorted({row["target"] for row in found} - {None})
    cells = {(row["method"], row["target"]): row for row in found}
    head = "| | as its authors set it: kept | error | across | " + " | ".join(f"error at {t:.0%}" for t in targets)
    lines = [head + " | " + " | ".join(f"across at {t:.0%}" for t in targets) + " |"]
    lines.append("|---" * (4 + 2 * len(targets)) + "|")
    for method in dict.fromkeys(row["method"] for row in found):
        usual = cells[method, None]
        at = [cells.get((method, target)) for target in targets]
        words = [method, f"{usual['kept']:.1%}", f"{usual['error']:.3f}", f"{usual['across']:.0%}"]
        words += [f"{row['error']:.3f}" if row else "-" for row in at]
        words += [f"{row['across']:.0%}" if row else "-" for row in at]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines) + "\n"


def _settings(routing) -> str:
    usual = config.RoutingConfig().settings
    shown = {n: v for n, v in routing.settings.items() if v != usual[n] or n in ("own", "rule")}
    return ", ".join(f"`{name}` {_value(value)}" for name, value in shown.items())


def _changes(settings, other) -> str:
    mine, theirs = settings.routing.settings, other.routing.settings
    changed = [f"`{n}` {_value(v)}" for n, v in theirs.items() if v != mine[n]]
    schedule = {n: v for n, v in vars(other.schedule).items() if v != getattr(settings.schedule, n)}
    return ", ".join(changed + [f"`{n}` {_value(v)}" for n, v in schedule.items()])


def _value(value) -> str:
    return "x".join("all" if v >= 999 else str(v) for v in value) if isinstance(value, tuple) else str(value)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "js/docs/MoCApply.md": {"qualities": qualities},
    "js/docs/MoCRouting.md": {"presets": presets, "choices": choices, "methods": methods},
    "docs/methods.md": {"parts": method_parts, "errors": method_errors},
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
