"""Two query tiles with lists of their own meet pieces in steps, and each skips the steps that are the other's alone."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from moc.backends.triton.device_table import Pieces
from moc.backends.triton.lists.unions import RUN, UnionLists, steps_of


def lists_of(who: list[list[int]]) -> UnionLists:
    """who: bit 0 of a piece, the first query tile listed it; bit 1, the second did. Piece i starts at token 10 * i + 1
    and has i % 16 + 1 tokens."""
    width = max(len(w) for w in who) + 3
    low = torch.full((1, len(who), width), 3, dtype=torch.int32)  # beyond the count stands anything
    for tile, pieces in enumerate(who):
        low[0, tile, : len(pieces)] = torch.tensor(pieces, dtype=torch.int32)
    number = torch.arange(width, dtype=torch.int32).expand(1, len(who), width)
    count = torch.tensor([[len(w) for w in who]], dtype=torch.int32)
    pieces = Pieces(number, number, number, None, 16, width)
    return UnionLists(10 * number + 1, low, number % 16 + 1, count, width, pieces)


@pytest.mark.parametrize("in_a_step", [1, 2, 8])
def test_each_tile_sees_its_pieces_once_and_no_other(in_a_step: int) -> None:
    torch.manual_seed(0)
    who = [torch.randint(1, 4, (n,)).tolist() for n in (1, 2, 63, 64, 65, 200)] + [[], [1] * 70, [2] * 9 + [1] * 40]
    steps = steps_of(lists_of(who), in_a_step)
    for tile, pieces in enumerate(who):
        for side in (0, 1):
            found = []
            for step in range(int(steps.number[0, tile])):
                seen = int(steps.seen[0, tile, step, side])
                for e in range(in_a_step):
                    tokens = (seen >> (8 * e)) & 255
                    if tokens:
                        found.append((int(steps.start[0, tile, step * in_a_step + e]), tokens))
            assert sorted(found) == [(10 * i + 1, i % 16 + 1) for i, w in enumerate(pieces) if w >> side & 1]


def test_what_both_listed_comes_first_then_they_take_turns() -> None:
    who = [[3, 1, 2] * (4 * RUN)]
    steps = steps_of(lists_of(who), 2)
    seen = steps.seen[0, 0, : int(steps.number[0, 0])] != 0
    turn = [(True, False)] * RUN + [(False, True)] * RUN
    assert [tuple(s) for s in seen.tolist()] == [(True, True)] * (2 * RUN) + turn * 2
