"""How a warp finds the k best scores of 16 rows in its registers: its PTX, run on the CPU (`ptx_lanes.py`).

With matrix products and all else around it the kernel is checked on a GPU: tests/gpu/check_gpu.py.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from moc.backends.triton.select.topk_registers_sm90_ptx import choosing
from tests.tools.ptx_lanes import LANES, Warp, as_float, as_int, of_float

ROWS = 16


def choose(
    scores: np.ndarray, k: int, there: np.ndarray | None = None
) -> tuple[list[set[int]], np.ndarray, np.ndarray]:
    """scores [16, chunks] -> chunks of every row, how many the warp says they are [16], thresholds [16].

    As matrix products lie in registers: thread t has columns 8 * i + 2 * (t % 4) and the next of rows t // 4 and
    t // 4 + 8.
    """
    passes = -(-scores.shape[1] // 64)
    words = -(-scores.shape[1] // 32)
    scores = np.pad(scores, ((0, 0), (0, 64 * passes - scores.shape[1])), constant_values=-np.inf)
    there = np.ones(ROWS, dtype=np.int64) if there is None else there
    thread = np.arange(LANES)
    rows = thread // 4, thread // 4 + 8
    text, operands = choosing(passes)
    values: dict[str, np.ndarray] = {}
    for i in range(8 * passes):
        for e in range(4):
            values[f"${8 + 4 * i + e}"] = of_float(scores[rows[e // 2], 8 * i + 2 * (thread % 4) + e % 2])
    at = 8 + 32 * passes
    for e in range(4):
        values[f"${at + e}"] = rows[e // 2] * 4  # bytes
        values[f"${at + 4 + e}"] = there[rows[e // 2]] * words
        values[f"${at + 8 + e}"] = np.full(LANES, k)
        values[f"${at + 12 + e}"] = np.full(LANES, 4 * ROWS)
    assert len(operands.split(",")) == at + 16
    warp = Warp(text, values)
    warp.run()
    number, level = np.zeros(ROWS, dtype=int), np.zeros(ROWS, dtype=np.float32)
    for e in (0, 2):
        number[rows[e // 2]] = as_int(warp.values[f"${4 + e}"])
        level[rows[e // 2]] = as_float(warp.values[f"${e}"])
    chosen: list[set[int]] = [set() for _ in range(ROWS)]
    for place, value in warp.stored.items():
        word, row = divmod(place // 4, ROWS)
        chosen[row] |= {32 * word + bit for bit in range(32) if value >> bit & 1}
    assert len(warp.stored) == words * there.sum(), "every word of every row that is there"
    return chosen, number, level


def best(row: np.ndarray, k: int) -> set[int]:
    return {int(c) for c in np.argsort(-row, kind="stable")[:k] if row[c] > -np.inf}


def kinds(columns: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((ROWS, columns)).astype(np.float32)
    film = np.convolve(rng.standard_normal(columns + 40), np.hanning(21), "same")[:columns]
    return {
        "normal": normal,
        "far from zero": normal + 300,
        "below zero": normal * 1e-2 - 7,
        "few stand out": np.exp(2 * normal),
        "few fall out": -np.exp(2 * normal),
        "neighbours alike": (film * rng.standard_normal((ROWS, 1)) + 0.1 * normal).astype(np.float32),
        "two kinds": np.where(normal > 0.8, normal * 1e2, normal * 1e-2),
        "steps": (np.round(normal * 1e6) * 1e-6).astype(np.float32),
    }


@pytest.mark.parametrize("passes", [1, 2, 3, 6])
@pytest.mark.parametrize("kind", kinds(64))
def test_the_k_best_of_every_row(kind: str, passes: int) -> None:
    scores = kinds(64 * passes)[kind]
    for k in (1, 5, 16, 40):
        chosen, number, _ = choose(scores, k)
        ordered = -np.sort(-scores, 1)
        near = ordered[:, max(0, k - 4) : k + 5]
        alike = (near[:, :-1] - near[:, 1:] < 3e-7 * abs(near[:, 1:])).any(1)
        assert ((number == k) | alike).all() and alike.mean() < 0.2
        for row in range(ROWS):  # never in silence
            assert chosen[row] == best(scores[row], k) if number[row] == k else alike[row]


def test_closed_chunks_are_never_chosen() -> None:
    """Own chunks, shots to come, what lies past the last chunk."""
    scores = kinds(192)["normal"]
    scores[:, 160:] = -np.inf
    scores[:, 20:23] = -np.inf
    scores[5, 30:] = -np.inf
    chosen, number, _ = choose(scores, 16)
    assert (number == 16).all() and chosen == [best(row, 16) for row in scores]


@pytest.mark.parametrize("left", [0, 1, 7, 8])
def test_all_are_chosen_where_they_are_fewer_than_k(left: int) -> None:
    scores = kinds(128)["normal"]
    scores[3, left:] = -np.inf
    chosen, number, level = choose(scores, 8)
    assert number[3] == left and chosen[3] == set(range(left)) and level[3] < -2.9e38
    assert chosen == [best(row, 8) for row in scores]


def test_rows_with_equal_scores_at_the_border_are_left_to_others() -> None:
    """They say so by a number other than k, and write nothing where these are too many."""
    scores = kinds(128)["normal"]
    scores[2] = 1.25
    order = np.argsort(-scores[9])
    scores[9, order[10]] = scores[9, order[9]]
    chosen, number, level = choose(scores, 10)
    for row in (2, 9):
        assert number[row] != 10 and len(chosen[row]) <= 10 and level[row] > -2.9e38
    rest = [r for r in range(ROWS) if r not in (2, 9)]
    assert (number[rest] == 10).all() and [chosen[r] for r in rest] == [best(scores[r], 10) for r in rest]


@pytest.mark.parametrize("k", [11, 12])
def test_every_score_twice(k: int) -> None:
    """What is chosen is right, and what is not certain is left to others."""
    scores = np.tile(kinds(64)["normal"], 2)
    chosen, number, _ = choose(scores, k)
    for row in range(ROWS):
        assert number[row] == k and chosen[row] == best(scores[row], k) if k == 12 and number[row] == k else True
    assert (number == k).any() == (k == 12)


@pytest.mark.parametrize("chunks", [65, 96, 97, 160])
def test_words_past_the_last_chunk_are_not_written(chunks: int) -> None:
    scores = kinds(192)["normal"][:, :chunks]
    assert choose(scores, 9)[0] == [best(row, 9) for row in scores]


def test_rows_past_the_end_write_nothing() -> None:
    scores, there = kinds(64)["normal"], np.ones(ROWS, dtype=np.int64)
    there[11:] = 0
    scores[11:] = 0
    chosen, _, _ = choose(scores, 4, there)
    assert chosen[11:] == [set()] * 5 and chosen[:11] == [best(row, 4) for row in scores[:11]]
