"""How MoC routes: the parts put together."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..routing.descriptors import DESCRIPTORS
from ..routing.rules import RULES
from .partition import AUTO, SIZES, Partition, check, check_choice
from .parts import Budget, Candidates, Links, Noise, Repair, Score

# As those in `parts.py`; parts that have but one setting are that setting.
TAILS = {
    "none": "nothing is seen of them",
    "pooled": "each still counts once, blurred; keeps still backgrounds still",
}
LISTS = {
    "token": "every token reads exactly what it chose",
    "union": "64 neighbouring tokens read all that any of them chose: never less, and slower with small tiles",
}
EIGHT_BITS = "8 bits"
PRECISIONS = {
    "auto": "16 bits, until 8 bits are measured",
    "16 bits": "as exact as full attention",
    EIGHT_BITS: "queries and keys are 8-bit whole numbers, for RTX 30, 40 and 50; not measured yet on consumer cards",
}


@dataclass(frozen=True)
class RoutingConfig:
    """Settings of one Mixture of Contexts attention (arXiv 2508.21058, section 3): partition x links x candidates x
    score x budget x tail.

    tail       "pooled": every skipped chunk still counts once, as its mean key and value times its length
    lists      "token": every query reads exactly what it chose; "union": the rows of a query tile
               (`ChunkTable.query_tiles`) all read what any of them chose or owns, which is never less
    noise      in training only
    precision  a name of PRECISIONS: in which q . k is computed for what rows see exactly, text and reference rows
               excepted (`backends/eight_bits.py`); the choice and the tail never are in 8 bits, nor is training
    repair     of the result, afterwards
    """

    partition: Partition = field(default_factory=Partition)
    links: Links = field(default_factory=Links)
    candidates: Candidates = field(default_factory=Candidates)
    score: Score = field(default_factory=Score)
    budget: Budget = field(default_factory=Budget)
    tail: str = "none"
    lists: str = "token"
    noise: Noise = field(default_factory=Noise)
    precision: str = "auto"
    repair: Repair = field(default_factory=Repair)

    def __post_init__(self) -> None:
        static = self.links.static == "first frame" or self.links.own == "frame"
        told = "own cannot be frame and static not first frame: such chunks lie in several frames"
        check(self.partition.order == "tiles" or not static, f"order is {self.partition.order!r}, so that {told}.")
        check(
            not (self.score.shared and RULES[self.budget.rule].whole),
            f"rule {self.budget.rule} weighs every token of a head: leave shared at 0.",
        )
        by_count = self.budget.rule == "top-k" and not self.budget.head_density
        check(not self.score.exact or by_count, "exact scores are for rule top-k, without head_density.")
        check(not self.budget.ladder or self.score.exact, "ladder needs exact scores.")
        check_choice("tail", self.tail, TAILS)
        check_choice("lists", self.lists, LISTS)
        check_choice("precision", self.precision, PRECISIONS)

    @classmethod
    def of(cls, **settings: Any) -> RoutingConfig:
        """By the names of the parts' own settings: RoutingConfig.of(own="frame", top_k=20, tail="pooled")."""
        return cls().changed(**settings)

    def changed(self, **settings: Any) -> RoutingConfig:
        """With other settings, named as in `of`. Raises TypeError for a name that no part has."""
        parts: dict[str, dict[str, Any]] = {}
        for name, value in settings.items():
            if name not in PART_OF:
                raise TypeError(f"no part of a routing has a setting {name!r}")
            parts.setdefault(PART_OF[name], {})[name] = value
        new = {
            part: mine[part] if part in mine else replace(getattr(self, part), **mine) for part, mine in parts.items()
        }
        return replace(self, **new)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by its name: what `of` makes the same routing from."""
        return {
            name: getattr(self, part) if name == part else getattr(getattr(self, part), name)
            for name, part in PART_OF.items()
        }

    def on(self, grid: tuple[int, int, int]) -> RoutingConfig:
        """For a video of (T, H, W) tokens: with AUTO the tile and the top_k that it gets, else the same."""
        if self.partition.tile != AUTO:
            return self
        size = [size for size in SIZES if grid[1] * grid[2] >= size.tokens][-1]
        return self.changed(tile=size.tile, top_k=round(self.budget.top_k * size.more))

    @property
    def geometry(self) -> tuple[Partition, Links]:
        """All that chunks and what rows always see depend on."""
        return self.partition, self.links

    @property
    def by_row(self) -> bool:
        """Whether every row chooses for itself, by products with what describes a chunk, and reads nothing beside its
        own, what is linked and what it chose."""
        score, links = self.score, self.links
        plain = DESCRIPTORS[score.descriptor].several is None and not RULES[self.budget.rule].by_error
        plain = plain and not (score.shared or score.guard or score.exact)
        return plain and links.near == "none" and links.own != "none"

    @property
    def same_k(self) -> bool:
        """Whether all rows choose the same number of chunks, where they have so many. Else nobody knows beforehand."""
        return self.by_row and self.budget.same_k

    @property
    def choice(self) -> str:
        if self.partition.tile == AUTO:
            larger = (
                f"with {size.tokens:,} tokens a frame and more {self.on((1, size.tokens, 1)).choice}"
                for size in SIZES[1:]
            )
            return ", ".join((self.on((1, 1, 1)).choice, *larger))
        return f"{self.budget.sentence} ({self.partition.sentence}, {self.score.sentence})"

    @property
    def sentence(self) -> str:
        """What every token sees, without a full stop."""
        budget = self.budget
        chooses = budget.rule != "top-k" or budget.top_k or budget.density is not None or budget.head_density
        more = self.choice if chooses else f"nothing else ({self.partition.sentence})"
        told = [f"{self.links.sentence} and {more}", self.candidates.sentence]
        told += ["the rest pooled"] * (self.tail == "pooled")
        told += ["one list for neighbouring tokens"] * (self.lists == "union")
        told += ["in 8 bits"] * (self.precision == EIGHT_BITS)
        return ", ".join(filter(None, (*told, self.noise.sentence, self.repair.sentence)))


def part_of(whole: type = RoutingConfig) -> dict[str, str]:
    """(setting: part that has it). Raises TypeError where two parts have a setting of the same name."""
    found: dict[str, str] = {}
    for part in fields(whole):
        default = getattr(whole(), part.name)
        for name in [part.name] if isinstance(default, str) else [f.name for f in fields(default)]:
            if name in found:
                raise TypeError(f"{found[name]} and {part.name} both have a setting {name!r}")
            found[name] = part.name
    return found


PART_OF = part_of()
