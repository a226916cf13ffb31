"""Every language of the pack says everything, and nothing that nobody asks for any more.

What is missing is printed as JSON that `python -m tests.tools.locales --fill FILE` takes back, with translations in it.
`tests/workflow/test_locales.py` compares the English with the nodes of a running server.
"""

import json
import re
from pathlib import Path

import pytest

from moc.trace.reasons import Reason
from moc.trace.trace import Trace
from tests.tools import locales

LANGUAGES = locales.languages()
FILES = ("nodeDefs", "main")
SYNTAX = re.compile(r"[{}@|]")  # of vue-i18n, which older front ends read node texts with
DOCS = locales.REPO / "js" / "docs"
HELP = ("zh", "ja")
WANTED = {"zh", "zh-TW", "ja", "ko", "fr", "es", "ru"}


def ours(language: str) -> dict:
    return locales.read(language, "main")[locales.OURS]


def test_there_are_the_languages_we_promise():
    assert set(LANGUAGES) >= WANTED


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_everything(language):
    texts = dict.fromkeys(text for file in FILES for text in locales.missing(language, file).values())
    assert not texts, f"missing, for --fill:\n{json.dumps({language: texts}, ensure_ascii=False, indent=1)}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_nothing_that_is_gone(language):
    assert [path for file in FILES for path in locales.stale(language, file)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_same_holes_as_the_english(language):
    for file in FILES:
        there = dict(locales.leaves(locales.read(language, file)))
        for path, text in locales.leaves(locales.read("en", file)):
            assert set(locales.HOLE.findall(there[path])) == set(locales.HOLE.findall(text)), path


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_texts_of_nodes_hold_nothing_that_the_front_end_would_compute(language):
    texts = [text for _, text in locales.leaves(locales.read(language, "nodeDefs"))]
    assert [text for text in texts if SYNTAX.search(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_stands_in_tooltips_as_it_stands_on_the_node(language):
    """A choice that a tooltip explains is written there as the combo box shows it."""
    nodes, names = locales.read("en", "nodeDefs"), ours(language)["choices"]
    told = locales.read(language, "nodeDefs")
    missing = []
    for node, words in nodes.items():
        for name, slot in words["inputs"].items():
            for choice in re.findall(r"(?:^|[.:] )([a-z][\w +-]*): ", slot.get("tooltip", "")):
                here = names.get(choice)
                if here and here not in told[node]["inputs"][name]["tooltip"]:
                    missing.append((node, name, choice, here))
    assert missing == []


def test_the_english_words_are_those_of_the_scripts():
    assert list(ours("en")["words"]) == locales.said()
    assert list(ours("en")["sentences"]) == locales.reported()


def fits(sentence: str) -> bool:
    plain = (re.sub(r"\\\{(\w+)\\\}", ".+", re.escape(template)) for template in locales.reported())
    return any(re.fullmatch(pattern, sentence) for pattern in plain)


def test_what_a_run_reports_has_a_template():
    trace = Trace()
    texts = [trace.status(), trace.report()]
    trace.dense.update(dict.fromkeys(Reason, 3))
    texts += [trace.status(), trace.report()]
    trace.routed = 6
    texts += [trace.status(), trace.report(), Trace(keep="off").report()]
    lines = "\n".join(texts).split("\n")
    said = [sentence for line in lines for sentence in re.split(r"(?<=\.) (?=[A-Z])", line)]
    assert len(said) > 12
    assert [sentence for sentence in said if not fits(sentence)] == []


def shape(page: Path) -> tuple[list[str], int, int]:
    """Its titles by level, its table rows and its list items."""
    lines = page.read_text("utf-8").splitlines()
    rows, items = (sum(line.lstrip().startswith(sign) for line in lines) for sign in ("|", "- "))
    return [line.partition(" ")[0] for line in lines if line.startswith("#")], rows, items


@pytest.mark.parametrize("language", HELP)
@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_a_help_page_says_as_much_as_the_english_one(page, language):
    """The front end asks for docs/<node>/<language>.md first."""
    assert shape(DOCS / page.stem / f"{language}.md") == shape(page)
