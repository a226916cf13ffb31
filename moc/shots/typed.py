"""What people type, read alike here and in the browser (js/lib/typed.js): patterns mean other characters there."""

from __future__ import annotations

# a class for a pattern: ASCII, full-width, Arabic, Persian, Devanagari, Bengali, Thai; int() and float() read them all
DIGITS = "0-9０-９٠-٩۰-۹०-९০-৯๐-๙"
SPACES = (  # the browser's own white space; also a class for a pattern
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
MOST_FRAMES = 1_000_000  # of a film, as the inputs of the nodes have it
MOST_SHOWN = 60


def shown(text: str) -> str:
    """For a message: text, shortened where it is long."""
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
