"""The parts of a routing but the partition, each with its own checks and words. `RoutingConfig` puts them together.

No two parts have a setting of the same name, so that all of them can be named at once (`RoutingConfig.of`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from ..chunks.near import NEAR
from ..routing.descriptors import DESCRIPTORS
from ..routing.rules import RULES
from .partition import check, check_choice

# What can be chosen by name, each with its sentence: tooltips, help pages and docs/routing.md are made from these.
OWN = {
    "shot": "its whole shot, which costs most",
    "frame": "its frame",
    "chunk": "its chunk",
    "none": "nothing; its best chunk, at least, is chosen",
    "video": "the whole video, which is full attention",
}
STATIC = {
    "none": "nothing",
    "first frame": "its first frame",
    "first tokens": "its first tokens",
}
REFERENCES = {
    "routed": "chosen like any chunk",
    "linked": "always seen",
}


@dataclass(frozen=True)
class Links:
    """What is seen without being chosen.

    own             what every query sees densely: its "shot", its "frame", its "chunk", "none" of these, or the "video"
    window          with own="frame": this many neighbouring frames of the shot on either side as well
    static          memory without routing: the "first frame" or "first tokens" of every shot, seen by all
    static_tokens   how many tokens "first tokens" means
    references      reference images/clips in the sequence compete to be chosen ("routed") or are always seen ("linked")
    near            chunks that are read because of where they stand (`chunks/near.py`), among those that may be chosen
    box, decay      of near="box": frames, rows and columns of tiles; of near="radial": how wide bands stay
    band            of near="band": the share of all pairs that the band holds
    """

    own: str = "shot"
    window: int = 0
    static: str = "none"
    static_tokens: int = 64
    references: str = "routed"
    near: str = "none"
    box: tuple[int, int, int] = (3, 3, 3)
    decay: float = 1.0
    band: float = 0.3

    def __post_init__(self) -> None:
        check(self.window >= 0, f"window is {self.window}; it counts neighbouring frames, so use 0 or more.")
        check(self.static_tokens >= 1, f"static_tokens is {self.static_tokens}; use 1 or more.")
        check_choice("own", self.own, OWN)
        check_choice("static", self.static, STATIC)
        check_choice("references", self.references, REFERENCES)
        check_choice("near", self.near, NEAR)
        check(min(self.box) >= 1, f"box is {self.box}; give three sizes in tiles, each 1 or more, like 3x3x3.")
        check(0.0 < self.band <= 1.0, f"band is {self.band}; it is a share: use more than 0 and at most 1.")
        check(0.0 < self.decay <= 1.0, f"decay is {self.decay}; use more than 0 and at most 1.")

    @property
    def nothing_sure(self) -> bool:
        """Whether rows may see nothing without choosing it, so that they have to choose something."""
        return self.own == "none" and self.near == "none"

    @property
    def sentence(self) -> str:
        window = f" with {self.window} on either side" if self.window else ""
        static = f", the {self.static} of every shot" if self.static != "none" else ""
        near = "" if self.near == "none" else f", {NEAR[self.near][1]}"
        own = {"none": "what is linked", "video": "the whole video"}.get(self.own, f"its own {self.own}{window}")
        return f"{own}{near}{static}"


@dataclass(frozen=True)
class Candidates:
    """What may be chosen at all.

    causal       routed links never point to a later shot, so that the shots form a DAG
    shots_kept   outer loop: route only into this many best other shots; None means all
    """

    causal: bool = False
    shots_kept: int | None = None

    def __post_init__(self) -> None:
        check(
            self.shots_kept is None or self.shots_kept >= 1,
            f"shots_kept is {self.shots_kept}; keep at least 1 shot, or leave it off to keep all.",
        )

    @property
    def sentence(self) -> str:
        best = ["" if self.shots_kept is None else f"from the {self.shots_kept} best other shots only"]
        return ", ".join(filter(None, ["earlier shots only"] * self.causal + best))


@dataclass(frozen=True)
class Score:
    """How well a chunk fits a query.

    descriptor   what a chunk is judged by (`routing/descriptors.py`)
    shared       rows of so many neighbouring chunks choose together, by the mean of their queries; 0: each for itself.
                 Where chunks are clusters of alike keys: so many times as many alike queries as a chunk has keys
    guard        chunks whose tokens are no more alike than this (mean cosine) are read by all, and rows that are not
                 (of what `shared` joins) read all; 0: none. SpargeAttn (arXiv 2502.18137, section 3.3)
    exact        chunks are judged by their true share of the rows' full attention instead, which costs as much as that:
                 for choices that many steps take. AdaSpa (arXiv 2502.21079, eq. 13)
    """

    descriptor: str = "mean"
    shared: int = 0
    guard: float = 0.0
    exact: bool = False

    def __post_init__(self) -> None:
        check_choice("descriptor", self.descriptor, DESCRIPTORS)
        check(self.shared >= 0, f"shared is {self.shared}; it counts chunks, so use 0 or more.")
        check(0.0 <= self.guard < 1.0, f"guard is {self.guard}; it is a cosine: use 0 or more, and less than 1.")
        check(
            not self.exact or (self.shared > 0 and not self.guard),
            "exact is for rows that choose together: set shared.",
        )

    @property
    def sentence(self) -> str:
        together = {0: "", 1: ", a choice for all tokens of a chunk"}
        by = "true attention" if self.exact else self.descriptor
        return by + together.get(self.shared, f", a choice for the tokens of {self.shared} chunks")


@dataclass(frozen=True)
class Budget:
    """How much is chosen by score.

    rule           what is chosen by the scores (`routing/rules.py`)
    top_k          with "top-k": chunks per query token and head; mandatory links are not counted
    density        with "top-k": this share of (query, key) pairs instead of a fixed top_k, in (0, 1]
    head_density   with "top-k": a density for every head, in order, instead of both; empty: the same k for all
    top_p          with "top-p": this share of the softmax over chunks, in (0, 1]
    beta           with "threshold": scores above the row's mean by so many standard deviations
    ladder         with exact scores: heads that read more than this share of their attention give half of their budget
                   to as many that read least; 0: none. AdaSpa (arXiv 2502.21079, section 4.2)
    """

    rule: str = "top-k"
    top_k: int = 5
    density: float | None = None
    head_density: tuple[float, ...] = ()
    top_p: float = 0.9
    beta: float = 1.0
    ladder: float = 0.0

    def __post_init__(self) -> None:
        check(self.top_k >= 0, f"top_k is {self.top_k}; it counts chunks, so use 0 or more.")
        check(
            self.density is None or 0.0 < self.density <= 1.0,
            f"density is {self.density}; it is a share of all pairs: use more than 0 and at most 1 (1 is dense).",
        )
        check(
            all(0.0 < density <= 1.0 for density in self.head_density),
            f"head_density is {self.head_density}; each is a share of all pairs: use more than 0 and at most 1.",
        )
        check(
            0.0 < self.top_p <= 1.0, f"top_p is {self.top_p}; it is a share: use more than 0 and at most 1 (1 is all)."
        )
        check(0.0 <= self.ladder < 1.0, f"ladder is {self.ladder}; it is a share: use 0 or more, and less than 1.")
        check(isfinite(self.beta), f"beta is {self.beta}; it counts standard deviations, so use an ordinary number.")
        check_choice("rule", self.rule, RULES)

    def check_heads(self, heads: int) -> None:
        """Raises MoCError where a density for every head is not one for each of so many."""
        told = f"head_density has {len(self.head_density)} numbers, but this model has {heads} heads: give one each"
        check(len(self.head_density) in (0, heads), f"{told}, or leave it empty.")

    def settled(self, top_k: int, share: float, seen: float) -> Budget:
        """With a number of chunks, of which a share is chosen, one at least. seen: density of what is always seen."""
        fewer = max(1, round(share * top_k)) if top_k else 0
        heads = tuple(seen + share * max(density - seen, 0.0) for density in self.head_density)
        return replace(self, top_k=fewer, density=None, head_density=self.head_density if share == 1.0 else heads)

    @property
    def same_k(self) -> bool:
        """Whether the rule gives all rows the same number of chunks."""
        return RULES[self.rule].same_k and not self.head_density

    @property
    def sentence(self) -> str:
        best = f"{self.density:.0%} of all pairs" if self.density is not None else f"its {self.top_k} best chunks"
        if self.density is None and self.top_k == 1:
            best = "its best chunk"
        if self.head_density:
            low, high = min(self.head_density), max(self.head_density)
            best = f"its best chunks, {low:.1%} to {high:.1%} of all pairs by head"
        share = f"the best chunks that hold {self.top_p:.0%} of its interest"
        told = {
            "top-k": best,
            "top-p": share,
            "best of head": f"the best chunks that hold {self.top_p:.0%} of all tokens' interest",
            "threshold": f"all chunks {self.beta:g} standard deviations above the mean",
            "top-k or top-p": f"{best} or {share}, whichever is more",
            "top-p from top-k on": f"{share}, {self.top_k} at least",
            "error per cost": f"{best} and, up to what holds {self.top_p:.0%} of its interest, those that a pooled "
            "tail would get most wrong",
        }
        return told.get(self.rule) or RULES[self.rule].sentence


@dataclass(frozen=True)
class Repair:
    """How the result is corrected afterwards (`moc/repair.py`).

    repair_rows   by so many rows for which full attention is computed; 0: not at all
    repair_rank   directions in which it is corrected, at most
    """

    repair_rows: int = 0
    repair_rank: int = 16

    def __post_init__(self) -> None:
        check(self.repair_rows >= 0, f"repair_rows is {self.repair_rows}; it counts rows, so use 0 or more.")
        check(self.repair_rank >= 1, f"repair_rank is {self.repair_rank}; use 1 or more.")

    @property
    def sentence(self) -> str:
        return f"corrected as on {self.repair_rows} rows that see all" if self.repair_rows else ""


@dataclass(frozen=True)
class Noise:
    """What is changed at random in training.

    drop_off   at most this share of the chosen chunks is removed at random (p_max)
    drop_in    mean number of random chunks added (Poisson lambda)
    seed       the same seed always drops the same chunks
    """

    drop_off: float = 0.0
    drop_in: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check(0.0 <= self.drop_off <= 1.0, f"drop_off is {self.drop_off}; it is a share: use 0 to 1.")
        check(
            self.drop_in >= 0.0 and isfinite(self.drop_in),
            f"drop_in is {self.drop_in}; it is a mean count: use 0 or more.",
        )

    def __bool__(self) -> bool:
        return bool(self.drop_off or self.drop_in)

    @property
    def sentence(self) -> str:
        return "in training some chunks dropped and added at random" if self else ""
