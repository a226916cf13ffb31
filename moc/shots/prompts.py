"""Prompts of several shots, in the forms that people write them in.

    [global] a woman [shot 1] walks [shot cut] runs                      our own, any mark may be left out
    [global caption] a woman [per shot caption] walks [shot cut] runs    HoloCine (arXiv 2510.20822)
    [1] a woman walks [2] the woman runs                                 EchoShot (arXiv 2506.15838)
    a woman walks | the woman runs

A mark may say how long its shot lasts and what it is called: [shot 2 "the door": 3s], [shot cut: 48f], [2: 1.5s].
Anywhere in a text, [use: anna] says that its shot reads the memory of this name; [use: anna, bob] names two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import MoCError
from .typed import DIGITS, SPACES, shown

BRACKETS = re.compile(r"\[([^\[\]]*)\]")  # first these, then what they hold: reading takes as long as the text is
MARK = re.compile(
    rf"""[{SPACES}]*(?:
        (?P<common>(?:global|common)(?:[{SPACES}]+(?:caption|prompt))?)
      | (?P<each>per[{SPACES}-]*shot(?:[{SPACES}]*(?:caption|prompt)s?)?)
      | (?P<cut>(?:shot[{SPACES}-]*)?cut)
      | (?P<shot>shot)[{SPACES}]*(?P<number>[{DIGITS}]+)?
      | (?P<bare>[{DIGITS}]+)
    )""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
FACT = re.compile(
    rf"""[{SPACES}:,;]*(?:
        ["“”](?P<name>[^"“”]*)["“”]
      | (?P<time>[{DIGITS}]+(?:\.[{DIGITS}]+)?)[{SPACES}]*(?P<unit>f|frames?|s|secs?|seconds?)\b
    )""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
USE = re.compile(rf"[{SPACES}]*\[[{SPACES}]*use[{SPACES}]*:([^\[\]]*)\]", re.IGNORECASE)
BAR = re.compile(r"[\\|()\[\]{}]")


def used(text: str) -> list[str]:
    """The memories that a text names."""
    names = (name.strip(SPACES) for found in USE.findall(text) for name in found.split(","))
    return [name for name in names if name]


def without_uses(text: str) -> str:
    return USE.sub("", text).strip(SPACES) if USE.search(text) else text


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
        return "\n".join(line.strip(SPACES) for line in lines)


@dataclass(frozen=True)
class _Mark:
    """bracket: in the prompt; match: of what is in it; name and time: "" where it says none"""

    bracket: re.Match
    match: re.Match
    name: str
    time: str

    @property
    def number(self) -> float:
        """0 for none. A float, since people and scripts write numbers of any length."""
        return float(self.match["number"] or self.match["bare"] or 0)

    @property
    def told(self) -> str:
        return shown(self.bracket[0])


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

    def mark(self, mark: _Mark) -> None:
        match, name, time, number = mark.match, mark.name, mark.time, mark.number
        if match["common"]:
            self.settle()
            self.in_shot = False
            if name or time:
                raise MoCError(f"the mark {mark.told} stands for all shots: give a name or a duration to a shot.")
            return
        if match["each"] and self.shots:
            raise MoCError(f"the mark {mark.told} comes after a shot: put it before the first one.")
        if match["cut"] and self.preamble:
            self.shots.append(_Shot(self.preamble))
            self.preamble = ""
        self.settle()
        last = self.shots[-1] if self.shots and self.in_shot else None
        one_border = (match["shot"] or number) and last and not last.text and not last.numbered  # [shot cut] [shot 2]
        if last is None or not one_border:
            last = _Shot()
            self.shots.append(last)
        if number and number != len(self.shots):
            raise MoCError(
                f"the mark {mark.told} stands where shot {len(self.shots)} begins: number the shots 1, 2, 3 in order."
            )
        if (name and last.name) or (time and last.time):
            raise MoCError(f"the mark {mark.told} says again what the mark before it says: take one of them out.")
        last.name, last.time, last.numbered = last.name or name, last.time or time, bool(number)
        self.in_shot = True

    def text(self, text: str) -> None:
        text = text.strip(SPACES)
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
    marks = [mark for bracket in BRACKETS.finditer(prompt) if (mark := _mark(bracket)) is not None]
    if not any(mark.match["bare"] and mark.number == 1 for mark in marks):
        marks = [mark for mark in marks if not mark.match["bare"]]
    ends = [mark.bracket.start() for mark in marks[1:]] + [len(prompt)]
    reader = _Reader(preamble=prompt[: marks[0].bracket.start() if marks else len(prompt)].strip(SPACES))
    for mark, end in zip(marks, ends):
        reader.mark(mark)
        reader.text(prompt[mark.bracket.end() : end])

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


def _mark(bracket: re.Match) -> _Mark | None:
    """None where the brackets are no mark of ours, like [shot on film] or [1girl]."""
    inner, told = bracket[1], shown(bracket[0])
    match = MARK.match(inner)
    if match is None:
        return None
    at, name, time = match.end(), "", ""
    while fact := FACT.match(inner, at):
        if (name and fact["name"]) or (time and fact["time"]):
            raise MoCError(f"the mark {told} has two {'names' if fact['name'] else 'durations'}: take one out.")
        name = name or (fact["name"] or "").strip(SPACES)
        time = time or (f"{fact['time']}{fact['unit'][0].lower()}" if fact["time"] else "")
        at = fact.end()
    rest = inner[at:].strip(SPACES)
    if not rest.strip(SPACES + ":,;"):
        return _Mark(bracket, match, name, time)
    if match["number"] or (match["cut"] and rest.startswith((":", ",", '"'))):
        raise MoCError(
            f"the mark {told} has more than a name and a duration in it: write it like "
            '[shot 2], [shot 2: 3s] or [shot 2 "the door": 48f].'
        )
    return None


def _split_bars(text: str) -> list[str]:
    """At every | that stands in no brackets: {a|b} and [a|b] are other people's."""
    parts, begin, depth, escaped = [], 0, 0, -1  # escaped: the place behind a backslash
    for found in BAR.finditer(text):
        letter, at = found[0], found.start()
        if at == escaped:
            continue
        if letter == "\\":
            escaped = at + 1
        elif letter != "|":
            depth = max(depth + (1 if letter in "([{" else -1), 0)
        elif not depth:
            parts.append(text[begin:at])
            begin = at + 1
    return [part.strip(SPACES) for part in (*parts, text[begin:])]
