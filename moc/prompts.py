"""Prompts of several shots, in the forms that people write them in.

    [global] a woman [shot 1] walks [shot cut] runs                      our own, any mark may be left out
    [global caption] a woman [per shot caption] walks [shot cut] runs    HoloCine (arXiv 2510.20822)
    [1] a woman walks [2] the woman runs                                 EchoShot (arXiv 2506.15838)
    a woman walks | the woman runs

A mark may say how long its shot lasts and what it is called: [shot 2 "the door": 3s], [shot cut: 48f], [2: 1.5s].
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import MoCError

MARK = re.compile(
    r"""\[\s*(?:
        (?P<common>(?:global|common)(?:\s+(?:caption|prompt))?)
      | (?P<each>per[\s-]*shot(?:\s*(?:caption|prompt)s?)?)
      | (?P<cut>(?:shot[\s-]*)?cut)
      | (?P<shot>shot)\s*(?P<number>\d+)?
      | (?P<bare>\d+)
    )(?P<facts>[^\[\]]*)\]""",
    re.IGNORECASE | re.VERBOSE,
)
FACT = re.compile(
    r"""[\s:,;]*(?:["“”](?P<name>[^"“”]*)["“”]|(?P<time>\d+(?:\.\d+)?)\s*(?P<unit>f|frames?|s|secs?|seconds?)\b)""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class ShotPrompt:
    """What a prompt says.

    common     text of every shot
    texts      one text per shot
    names      one name per shot, "" where it has none
    durations  how long every shot lasts, as written: "3s", "48f", or "" where nothing is said
    bars       the shots are separated by | and not by marks
    """

    common: str
    texts: tuple[str, ...]
    names: tuple[str, ...]
    durations: tuple[str, ...]
    bars: bool = False

    def __str__(self) -> str:
        """The prompt with its marks, which `read_prompt` reads back."""
        if len(self.texts) == 1 and not (self.common or any(self.names) or any(self.durations)):
            return self.texts[0]
        lines = [f"[global] {self.common}"] if self.common else []
        for number, (text, name, time) in enumerate(zip(self.texts, self.names, self.durations), 1):
            facts = (f' "{name}"' if name else "") + (f": {time}" if time else "")
            lines.append(f"[shot {number}{facts}] {text}")
        return "\n".join(line.strip() for line in lines)


@dataclass
class _Shot:
    text: str = ""
    name: str = ""
    time: str = ""
    numbered: bool = False


@dataclass
class _Reader:
    common: list[str] = field(default_factory=list)
    shots: list[_Shot] = field(default_factory=list)
    in_shot: bool = False  # else the text that follows is common
    preamble: str = ""  # text before any mark: common, or the first shot if a cut follows

    def mark(self, match: re.Match, name: str, time: str) -> None:
        number = int(match["number"] or match["bare"] or 0)
        if match["common"]:
            self.settle()
            self.in_shot = False
            if name or time:
                raise MoCError(f"the mark {match[0]} stands for all shots: give a name or a duration to a shot.")
            return
        if match["each"] and self.shots:
            raise MoCError(f"the mark {match[0]} comes after a shot: put it before the first one.")
        if match["cut"] and self.preamble:
            self.shots.append(_Shot(self.preamble))
            self.preamble = ""
        self.settle()
        last = self.shots[-1] if self.shots and self.in_shot else None
        if not (
            (match["shot"] or number) and last and not last.text and not last.numbered
        ):  # [shot cut] [shot 2] is one border
            last = _Shot()
            self.shots.append(last)
        if number and number != len(self.shots):
            raise MoCError(
                f"the mark {match[0]} stands where shot {len(self.shots)} begins: number the shots 1, 2, 3 in order."
            )
        if (name and last.name) or (time and last.time):
            raise MoCError(f"the mark {match[0]} says again what the mark before it says: take one of them out.")
        last.name, last.time, last.numbered = last.name or name, last.time or time, bool(number)
        self.in_shot = True

    def text(self, text: str) -> None:
        text = text.strip()
        if self.in_shot:
            self.shots[-1].text = text
        elif text:
            self.common.append(text)

    def settle(self) -> None:
        """What stood before any mark belongs to all shots."""
        if self.preamble:
            self.common.insert(0, self.preamble)
            self.preamble = ""


def read_prompt(prompt: str) -> ShotPrompt:
    """A prompt in any of the forms -> what it says. Brackets that are no marks are text."""
    marks = [(match, *facts) for match in MARK.finditer(prompt) if (facts := _facts(match)) is not None]
    if not any(match["bare"] and int(match["bare"]) == 1 for match, *_ in marks):
        marks = [mark for mark in marks if not mark[0]["bare"]]
    ends = [match.start() for match, *_ in marks[1:]] + [len(prompt)]
    reader = _Reader(preamble=prompt[: marks[0][0].start() if marks else len(prompt)].strip())
    for (match, name, time), end in zip(marks, ends):
        reader.mark(match, name, time)
        reader.text(prompt[match.end() : end])

    shots = reader.shots or [_Shot(reader.preamble)]
    bars = _split_bars(shots[0].text) if len(shots) == 1 else []
    if len(bars) > 1:
        shots = [_Shot(bars[0], shots[0].name, shots[0].time), *map(_Shot, bars[1:])]
    if not reader.shots and reader.common and not shots[0].text:
        reader.common, shots = [], [_Shot("\n".join(reader.common))]  # [global] alone: one shot
    return ShotPrompt(
        "\n".join(reader.common),
        tuple(shot.text for shot in shots),
        tuple(shot.name for shot in shots),
        tuple(shot.time for shot in shots),
        bars=len(bars) > 1,
    )


def _facts(match: re.Match) -> tuple[str, str] | None:
    """(name, duration) in a mark; None where the brackets are no mark of ours, like [shot on film] or [1girl]."""
    rest, name, time = match["facts"], "", ""
    while fact := FACT.match(rest):
        if (name and fact["name"]) or (time and fact["time"]):
            raise MoCError(f"the mark {match[0]} has two {'names' if fact['name'] else 'durations'}: take one out.")
        name = name or (fact["name"] or "").strip()
        time = time or (f"{fact['time']}{fact['unit'][0].lower()}" if fact["time"] else "")
        rest = rest[fact.end() :]
    if not rest.strip(" \t\n:,;"):
        return name, time
    if match["number"] or (match["cut"] and rest.lstrip().startswith((":", ",", '"'))):
        raise MoCError(
            f"the mark {match[0]} has more than a name and a duration in it: write it like "
            '[shot 2], [shot 2: 3s] or [shot 2 "the door": 48f].'
        )
    return None


def _split_bars(text: str) -> list[str]:
    """At every | that stands in no brackets: {a|b} and [a|b] are other people's."""
    parts, depth, escaped = [""], 0, False
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}") if not escaped else 0
        depth = max(depth, 0)
        if letter == "|" and not depth and not escaped:
            parts.append("")
        else:
            parts[-1] += letter
        escaped = letter == "\\" and not escaped
    return [part.strip() for part in parts]
