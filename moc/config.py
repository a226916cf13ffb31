"""How MoC routes: the method's settings (`RoutingConfig`), when it is on (`Schedule`), and named presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite

from .errors import MoCError
from .routing.descriptors import DESCRIPTORS
from .routing.rules import RULES

# What can be chosen by name, each with its sentence: tooltips, help pages and docs/routing.md are made from these.
OWN = {
    "shot": "its whole shot, which costs most",
    "frame": "its frame",
    "chunk": "its chunk",
}
TAILS = {
    "none": "nothing is seen of them",
    "pooled": "each still counts once, blurred; keeps still backgrounds still",
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
LISTS = {
    "token": "every token reads exactly what it chose",
    "union": "64 neighbouring tokens read all that any of them chose: never less, and slower with small tiles",
}
BREAK_EVEN = {
    "estimated": "by what the work should take on this GPU beside 16-bit attention; the same film is always routed or "
    "never",
    "measured": "three calls of the first step are computed both ways, and from the next step on the faster way is "
    "taken. For SageAttention, 8-bit attention and others that the estimate does not know",
}


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise MoCError(message)


@dataclass(frozen=True)
class RoutingConfig:
    """Settings of one Mixture of Contexts attention (arXiv 2508.21058, section 3).

    top_k           routed chunks per query token and head; mandatory links are not counted
    density         aim for this share of (query, key) pairs instead of a fixed top_k, in (0, 1]
    chunk_tokens    wanted chunk size in tokens; None means one latent frame
    tile            chunk size as (frames, rows, columns) of tokens; wins over chunk_tokens
    own             what every query sees densely: its "shot", its "frame" or its "chunk"
    window          with own="frame": this many neighbouring frames of the shot on either side as well
    causal          routed links never point to a later shot, so that the shots form a DAG
    descriptor      what a chunk is judged by (`routing/descriptors.py`)
    tail            "pooled": every skipped chunk still counts once, as its mean key and value times its length
    static          memory without routing: the "first frame" or "first tokens" of every shot, seen by all
    static_tokens   how many tokens "first tokens" means
    references      reference images/clips in the sequence compete for top_k ("routed") or are always seen ("linked")
    shots_kept      outer loop: route only into this many best other shots; None means all
    lists           "token": every query reads exactly what it chose; "union": the rows of a query tile
                    (`ChunkTable.query_tiles`) all read what any of them chose or owns, which is never less
    rule            what is chosen by the scores (`routing/rules.py`)
    top_p           with "top-p": this share of the softmax over chunks, in (0, 1]
    beta            with "threshold": scores above the row's mean by so many standard deviations
    head_density    with "top-k": a density for every head, in order, instead of top_k and density; empty: the same k
    drop_off        training: at most this share of the chosen chunks is removed at random (p_max)
    drop_in         training: mean number of random chunks added (Poisson lambda)
    seed            of drop_off and drop_in; the same seed always drops the same chunks
    """

    top_k: int = 5
    density: float | None = None
    chunk_tokens: int | None = None
    tile: tuple[int, int, int] | None = None
    own: str = "shot"
    window: int = 0
    causal: bool = False
    descriptor: str = "mean"
    tail: str = "none"
    static: str = "none"
    static_tokens: int = 64
    references: str = "routed"
    shots_kept: int | None = None
    drop_off: float = 0.0
    drop_in: float = 0.0
    seed: int = 0
    lists: str = "token"
    rule: str = "top-k"
    top_p: float = 0.9
    beta: float = 1.0
    head_density: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check(self.top_k >= 0, f"top_k is {self.top_k}; it counts chunks, so use 0 or more.")
        _check(
            self.density is None or 0.0 < self.density <= 1.0,
            f"density is {self.density}; it is a share of all pairs: use more than 0 and at most 1 (1 is dense).",
        )
        _check(
            self.chunk_tokens is None or self.chunk_tokens >= 1,
            f"chunk_tokens is {self.chunk_tokens}; a chunk holds at least 1 token.",
        )
        _check(
            self.tile is None or (len(self.tile) == 3 and min(self.tile) >= 1),
            f"tile is {self.tile}; give three sizes (frames, rows, columns), each 1 or more, like 1x4x4.",
        )
        _check(self.window >= 0, f"window is {self.window}; it counts neighbouring frames, so use 0 or more.")
        _check(self.static_tokens >= 1, f"static_tokens is {self.static_tokens}; use 1 or more.")
        _check(
            self.shots_kept is None or self.shots_kept >= 1,
            f"shots_kept is {self.shots_kept}; keep at least 1 shot, or leave it off to keep all.",
        )
        _check(
            0.0 < self.top_p <= 1.0, f"top_p is {self.top_p}; it is a share: use more than 0 and at most 1 (1 is all)."
        )
        _check(
            all(0.0 < density <= 1.0 for density in self.head_density),
            f"head_density is {self.head_density}; each is a share of all pairs: use more than 0 and at most 1.",
        )
        _check(isfinite(self.beta), f"beta is {self.beta}; it counts standard deviations, so use an ordinary number.")
        _check(0.0 <= self.drop_off <= 1.0, f"drop_off is {self.drop_off}; it is a share: use 0 to 1.")
        _check(
            self.drop_in >= 0.0 and isfinite(self.drop_in),
            f"drop_in is {self.drop_in}; it is a mean count: use 0 or more.",
        )
        for name, allowed in (
            ("own", OWN),
            ("descriptor", DESCRIPTORS),
            ("tail", TAILS),
            ("static", STATIC),
            ("references", REFERENCES),
            ("lists", LISTS),
            ("rule", RULES),
        ):
            value = getattr(self, name)
            _check(value in allowed, f"{name} is {value!r}; choose one of: {', '.join(allowed)}.")

    @property
    def geometry(self) -> tuple:
        """All that chunks and what rows always see depend on."""
        return (self.chunk_tokens, self.tile, self.own, self.window, self.static, self.static_tokens, self.references)

    @property
    def same_k(self) -> bool:
        """Whether all rows choose the same number of chunks, where they have so many. Else nobody knows beforehand."""
        return RULES[self.rule].same_k and not self.head_density


@dataclass(frozen=True)
class Schedule:
    """When and where MoC is on; everything else runs dense.

    start_percent, end_percent   part of the denoising (0 is the first, noisiest step)
    dense_first, dense_last      transformer blocks at either end that stay dense
    dense_blocks                 more blocks that stay dense, counted from 0
    min_tokens                   shorter sequences stay dense; 0: on a GPU those where dense attention should be faster
                                 (break_even), elsewhere none; 1: none
    break_even                   how that is known: "estimated" (`cost_model.py`) or "measured" (`measured.py`)
    """

    start_percent: float = 0.0
    end_percent: float = 1.0
    dense_first: int = 0
    dense_last: int = 0
    min_tokens: int = 0
    dense_blocks: tuple[int, ...] = ()
    break_even: str = "estimated"

    def is_dense(self, block: int, blocks: int) -> bool:
        """Whether block number `block` of `blocks` stays dense."""
        return not self.dense_first <= block < blocks - self.dense_last or block in self.dense_blocks

    def __post_init__(self) -> None:
        _check(
            0.0 <= self.start_percent <= self.end_percent <= 1.0,
            f"MoC is on from {self.start_percent} to {self.end_percent} of the sampling; "
            "both must lie between 0 and 1, start first.",
        )
        _check(
            min(self.dense_first, self.dense_last, self.min_tokens) >= 0,
            "dense_first, dense_last and min_tokens are counts; use 0 or more.",
        )
        _check(
            self.break_even in BREAK_EVEN,
            f"break_even is {self.break_even!r}; choose one of: {', '.join(BREAK_EVEN)}.",
        )
        _check(
            min(self.dense_blocks, default=0) >= 0,
            f"dense_blocks holds {min(self.dense_blocks, default=0)}; blocks are counted from 0.",
        )


@dataclass(frozen=True)
class MoCSettings:
    """What the MOC_ROUTING socket carries.

    blocks   (number of a transformer block, its own routing), for blocks that are routed otherwise than the rest
    """

    routing: RoutingConfig = field(default_factory=RoutingConfig)
    schedule: Schedule = field(default_factory=Schedule)
    blocks: tuple[tuple[int, RoutingConfig], ...] = ()

    def routing_of(self, block: int) -> RoutingConfig:
        return dict(self.blocks).get(block, self.routing)

    def with_routing(self, **changes: object) -> MoCSettings:
        return replace(self, routing=replace(self.routing, **changes))  # type: ignore[arg-type]

    def with_schedule(self, **changes: object) -> MoCSettings:
        return replace(self, schedule=replace(self.schedule, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Preset:
    """sees: what every token sees; use: what the preset is for. Both without a capital letter and a full stop."""

    settings: MoCSettings
    sees: str
    use: str


NAMED: dict[str, Preset] = {
    # The paper's settings, section 4: chunks of 1280 tokens at the end of training, k = 5, own shot dense, causal.
    "paper multi-shot": Preset(
        MoCSettings(RoutingConfig(top_k=5, chunk_tokens=1280, own="shot", causal=True)),
        "its whole shot, and a few large chunks of earlier shots",
        "for models trained with the Mixture of Contexts paper's settings",
    ),
    # Chunks of 256 tokens, k = 3, own chunk, no causality.
    "paper single-shot": Preset(
        MoCSettings(RoutingConfig(top_k=3, chunk_tokens=256, own="chunk")),
        "its own chunk, and a few chunks anywhere",
        "for models trained with the paper's settings for one shot",
    ),
    "recommended": Preset(
        MoCSettings(RoutingConfig(top_k=20, tile=(1, 4, 4), own="frame", descriptor="minmax", tail="pooled")),
        "its own frame, and the small tiles anywhere in the video that fit it best; the rest blurred",
        "closest to full attention",
    ),
    "fast": Preset(
        MoCSettings(RoutingConfig(top_k=10, tile=(1, 4, 4), own="frame", descriptor="mean", tail="pooled")),
        "as recommended, with fewer tiles and a simpler choice",
        "a little faster than recommended, and less exact",
    ),
    # As many tokens as 32 tiles of 8x8, in pieces that kernels like (docs/kernels.md).
    "large pictures": Preset(
        MoCSettings(RoutingConfig(top_k=8, chunk_tokens=250, own="frame", descriptor="minmax", tail="pooled")),
        "its own frame, and a few larger pieces; the rest blurred",
        "fastest on a GPU at 720p and for long videos",
    ),
}
PRESETS: dict[str, MoCSettings] = {name: preset.settings for name, preset in NAMED.items()}
