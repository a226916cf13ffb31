"""When and where MoC is on."""

from __future__ import annotations

from dataclasses import dataclass

from .parts import check, check_choice

BREAK_EVEN = {
    "estimated": "by what the work should take on this GPU beside 16-bit attention; the same film is always routed or "
    "never",
    "measured": "three calls of the first step are computed both ways, and from the next step on the faster way is "
    "taken. For SageAttention, 8-bit attention and others that the estimate does not know",
}


@dataclass(frozen=True)
class Schedule:
    """When and where MoC is on; everything else runs dense.

    start_percent, end_percent   part of the denoising (0 is the first, noisiest step)
    dense_first, dense_last      transformer blocks at either end that stay dense
    dense_blocks                 more blocks that stay dense, counted from 0
    min_tokens                   shorter sequences stay dense; 0: on a GPU those where dense attention should be faster
                                 (break_even), elsewhere none; 1: none
    break_even                   how that is known, a name of BREAK_EVEN
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
        check_choice("break_even", self.break_even, BREAK_EVEN)
