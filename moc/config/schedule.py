"""When and where MoC is on."""

from __future__ import annotations

from dataclasses import dataclass

from .partition import check, check_choice

BREAK_EVEN = {
    "estimated": "by what the work should take on this GPU beside 16-bit attention; the same film is always routed or "
    "never",
    "measured": "three calls of the first step are computed both ways, and from the next step on the faster way is "
    "taken. For SageAttention, 8-bit attention and others that the estimate does not know",
}


@dataclass(frozen=True)
class Curve:
    """How the budget follows the noise. levels: (noise above which, share of the budget), falling, down to noise 0.

    Few levels, so that few numbers of chunks occur: kernels are built, and both ways measured, for each.
    """

    sentence: str
    levels: tuple[tuple[float, float], ...]


# Late steps lose least by reading less (DFSAttn, arXiv 2605.23445, lets the density fall to a third). By the noise, and
# not by the step: at a shift of 12 the first fifth of the steps ends at a noise of .98, at a shift of 3 at .92.
CURVES = {
    "constant": Curve("the whole budget in every step", ((0.0, 1.0),)),
    "falling": Curve(
        "three quarters of it from a noise of 0.9 on, half of it from 0.75, a quarter from 0.5",
        ((0.9, 1.0), (0.75, 0.75), (0.5, 0.5), (0.0, 0.25)),
    ),
    "falling early": Curve(
        "half of it from a noise of 0.95 on, a quarter from 0.85",
        ((0.95, 1.0), (0.85, 0.5), (0.0, 0.25)),
    ),
}


@dataclass(frozen=True)
class Choosing:
    """When chunks are chosen. every: in each so-many-th step; 0: in the first, and where `at` says. at: parts of the
    sampling at which all is chosen once more."""

    sentence: str
    every: int = 1
    at: tuple[float, ...] = ()


CHOOSING = {
    "every step": Choosing("every step for itself"),
    "every second step": Choosing("the steps between take the choices of the step before", 2),
    "every fourth step": Choosing("three of four steps take the choices of an earlier one", 4),
    "twice": Choosing("at the start and after 60% of the sampling, as AdaSpa does", 0, (0.6,)),
}
ROUNDING = 1e-5  # of noise levels in 32 bits: a step exactly at the start is inside, one at the end is not


@dataclass(frozen=True)
class Schedule:
    """When and where MoC is on; everything else runs dense.

    start_percent, end_percent   part of the denoising (0 is the first, noisiest step)
    dense_first, dense_last      transformer blocks at either end that stay dense
    dense_blocks                 more blocks that stay dense, counted from 0
    min_tokens                   shorter sequences stay dense; 0: on a GPU those where dense attention should be faster
                                 (break_even), elsewhere none; 1: none
    break_even                   how that is known, a name of BREAK_EVEN
    dense_above                  noisier steps stay dense; noise is a share: 1 at the start, 0 at the end
    curve                        how what is chosen by top-k or density follows the noise, a name of CURVES
    choosing                     which steps choose; the others take what was chosen last. A name of CHOOSING
    """

    start_percent: float = 0.0
    end_percent: float = 1.0
    dense_first: int = 0
    dense_last: int = 0
    min_tokens: int = 0
    dense_blocks: tuple[int, ...] = ()
    break_even: str = "estimated"
    dense_above: float = 1.0
    curve: str = "constant"
    choosing: str = "every step"

    def is_dense(self, block: int, blocks: int) -> bool:
        """Whether block number `block` of `blocks` stays dense."""
        return not self.dense_first <= block < blocks - self.dense_last or block in self.dense_blocks

    def share(self, noise: float) -> float:
        """Of the budget, at a noise in [0, 1]."""
        levels = CURVES[self.curve].levels
        return next((share for above, share in levels if noise > above * (1 + ROUNDING)), levels[-1][1])

    def __post_init__(self) -> None:
        check(
            0.0 <= self.start_percent <= self.end_percent <= 1.0,
            f"MoC is on from {self.start_percent} to {self.end_percent} of the sampling; "
            "both must lie between 0 and 1, start first.",
        )
        check(
            min(self.dense_first, self.dense_last, self.min_tokens) >= 0,
            "dense_first, dense_last and min_tokens are counts; use 0 or more.",
        )
        check(
            min(self.dense_blocks, default=0) >= 0,
            f"dense_blocks holds {min(self.dense_blocks, default=0)}; blocks are counted from 0.",
        )
        check(
            0.0 <= self.dense_above <= 1.0,
            f"dense_above is {self.dense_above}; it is a share of noise: use 0 (all steps dense) to 1 (none).",
        )
        check_choice("break_even", self.break_even, BREAK_EVEN)
        check_choice("curve", self.curve, CURVES)
        check_choice("choosing", self.choosing, CHOOSING)
