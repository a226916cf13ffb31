"""The words of the nodes, as a running server has them, in all languages."""

import urllib.request

from demo.host import NEWEST
from demo.hosting.base import PACK
from tests.tools import locales


def test_the_english_is_that_of_the_nodes(server, object_info):
    """`python -m tests.tools.locales` writes it anew and drops translations of what has changed."""
    if server.host.version == NEWEST:
        assert locales.read("en", "nodeDefs") == locales.node_words(object_info)
    assert list(locales.read("en", "main")[locales.OURS]["choices"]) == locales.choices(object_info)


def test_the_server_hands_out_every_language(server, object_info):
    served = server.get("/i18n")
    assert set(served) == {"en", *locales.languages()}
    ours = {name for name in object_info if name.startswith("MoC") and not name.startswith("MoCTest")}
    for words in served.values():
        assert set(words["nodeDefs"]) == ours and locales.OURS in words


def test_help_pages_are_served_in_every_language_that_has_them(server):
    docs = locales.REPO / "js" / "docs"
    for page in docs.rglob("*.md"):
        address = f"{server.url}/extensions/{PACK}/docs/{page.relative_to(docs).as_posix()}"
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == page.read_bytes()
