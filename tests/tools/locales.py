"""The pack's words in other languages: what locales/ has to hold, and what is missing or out of date in it.

    python -m tests.tools.locales           write locales/en anew, drop what is out of date, print what is missing
    python -m tests.tools.locales --fill F  as above, and add from F what is missing: {"zh": {"English": "...", ...}}

The English words come from the nodes themselves (nodeDefs.json), from `say("...")` in js/ ("words"), from combo boxes
("choices") and from what the server reports while sampling ("sentences"). Where an English sentence changes, its
translations are dropped, so that nobody reads an old one; `tests/unit/test_locales.py` then asks for new ones.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from moc.methods import METHODS
from moc.shots.time_rules import FAMILIES
from moc.trace.reasons import SHORTLY, Reason

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "locales"
OURS = "mixture_of_contexts"
SAID = re.compile(r"""\bsay\(\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
HOLE = re.compile(r"\{(\w+)\}")
REPORTED = (
    "MoC: nothing sampled yet.",
    "MoC on: {routed} of {blocks} blocks routed, {kept} of pairs kept.",
    "MoC on: {routed} of {blocks} blocks routed.",
    "MoC on: {routed} of {calls} self-attention calls routed, {kept} of pairs kept.",
    "MoC on: {routed} of {calls} self-attention calls routed.",
    "MoC: everything ran dense.",
    "Dense calls ({reasons}).",
    "Connect the sampler's LATENT so that this node runs after it.",
    "What was chosen was not recorded: trace is off on MoC Apply.",
)  # the first one that fits wins
Words = dict[str, Any]  # nested; the leaves are sentences


def languages() -> list[str]:
    return sorted(folder.name for folder in FOLDER.iterdir() if folder.name != "en")


def read(language: str, file: str) -> Words:
    path = FOLDER / language / f"{file}.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def write(language: str, file: str, words: Words) -> None:
    path = FOLDER / language / f"{file}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", "utf-8")


def node_words(object_info: Mapping[str, Any]) -> Words:
    """What the front end looks up for our nodes, in English."""
    return {name: _node(info) for name, info in sorted(object_info.items()) if _is_ours(info)}


def _is_ours(info: Mapping[str, Any]) -> bool:
    return str(info["python_module"]).endswith("mixture-of-contexts")


def _node(info: Mapping[str, Any]) -> Words:
    tips = info.get("output_tooltips") or [None] * len(info["output_name"])
    inputs = {name: _slot(options.get("display_name") or name, options) for name, options in _inputs(info)}
    outputs = {str(i): _slot(name, {"tooltip": tip}) for i, (name, tip) in enumerate(zip(info["output_name"], tips))}
    about = {"display_name": info["display_name"], "description": info["description"]}
    return {**about, "inputs": inputs, "outputs": outputs}


def _inputs(info: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for section in ("required", "optional"):
        for name, spec in info["input"].get(section, {}).items():
            yield name, spec[1] if len(spec) > 1 else {}


def _slot(name: str, options: Mapping[str, Any]) -> Words:
    return {"name": name} | ({"tooltip": options["tooltip"]} if options.get("tooltip") else {})


def choices(object_info: Mapping[str, Any]) -> list[str]:
    """The choices of our combo boxes; names of models and methods are the same in all languages."""
    ours = (options for info in object_info.values() if _is_ours(info) for _, options in _inputs(info))
    found = dict.fromkeys(choice for options in ours for choice in options.get("options", []))
    return sorted(choice for choice in found if choice not in FAMILIES and choice not in METHODS)


def said() -> list[str]:
    """What the pack's scripts say."""
    sources = (path.read_text("utf-8") for path in sorted((REPO / "js").rglob("*.js")))
    return sorted({ast.literal_eval(text) for source in sources for text in SAID.findall(source)})


def reported() -> list[str]:
    """What the server says of a run, as templates; phrases without a full stop stand inside them."""
    dense = [f"{{count}} dense: {reason.value}." for reason in Reason]
    return [*REPORTED, *dense, *SHORTLY.values()]


def english(object_info: Mapping[str, Any]) -> dict[str, Words]:
    lists = {"words": said(), "choices": choices(object_info), "sentences": reported()}
    ours = {part: {text: text for text in texts} for part, texts in lists.items()}
    return {"nodeDefs": node_words(object_info), "main": {"nodeCategories": {"MoC": "MoC"}, OURS: ours}}


def leaves(words: Words, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in words.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def missing(language: str, file: str) -> dict[tuple[str, ...], str]:
    """Path of every sentence that this language lacks -> the English."""
    there = dict(leaves(read(language, file)))
    return {path: text for path, text in leaves(read("en", file)) if not there.get(path)}


def stale(language: str, file: str) -> list[tuple[str, ...]]:
    """Paths that nothing asks for any more."""
    asked = dict(leaves(read("en", file)))
    return [path for path, _ in leaves(read(language, file)) if path not in asked]


def update(object_info: Mapping[str, Any], translations: Mapping[str, Mapping[str, str]]) -> None:
    """Write locales/en from the nodes, and every other language in its order, without what is out of date."""
    for file, now in english(object_info).items():
        before = dict(leaves(read("en", file)))
        write("en", file, now)
        for language in sorted({*languages(), *translations}):
            there, new = dict(leaves(read(language, file))), translations.get(language, {})
            known = {(path[-1], text): there[path] for path, text in before.items() if there.get(path)}

            def told(path: tuple[str, ...], text: str, there=there, new=new, known=known, before=before) -> str | None:
                kept = there.get(path) if before.get(path) == text else None
                return kept or new.get(text) or known.get((path[-1], text))  # a name that another node has too

            write(language, file, _mapped(now, told))


def _mapped(words: Words, told: Callable[[tuple[str, ...], str], str | None], path: tuple[str, ...] = ()) -> Words:
    out: Words = {}
    for key, value in words.items():
        if isinstance(value, dict):
            out[key] = _mapped(value, told, (*path, key))
        elif text := told((*path, key), value):
            out[key] = text
    return out


def main() -> int:
    from demo.host import NEWEST, prepare
    from demo.server import Server

    parser = argparse.ArgumentParser(prog="python -m tests.tools.locales", description="Bring locales/ up to date.")
    parser.add_argument("--fill", type=Path, help="a JSON file of {language: {English: translation}}")
    options = parser.parse_args()
    with Server(prepare(NEWEST, tools=True), cpu=True) as server:
        update(server.object_info(), json.loads(options.fill.read_text("utf-8")) if options.fill else {})
    lacking = {language: list(dict.fromkeys(_texts(language))) for language in languages()}
    print(json.dumps({language: texts for language, texts in lacking.items() if texts}, ensure_ascii=False, indent=1))
    return int(any(lacking.values()))


def _texts(language: str) -> Iterator[str]:
    for file in ("nodeDefs", "main"):
        yield from missing(language, file).values()


if __name__ == "__main__":
    sys.exit(main())
