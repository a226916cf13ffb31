"""Rules of choice on scores small enough to check by eye. That backends follow them: test_reference, test_eager."""

import pytest
import torch

from moc.backends import triton
from moc.backends.registry import Call
from moc.chunks.build import build_chunks
from moc.chunks.layout import TokenLayout
from moc.config import RoutingConfig
from moc.errors import MoCError
from moc.routing import rules

TABLE = build_chunks(TokenLayout(5 * 4, (5, 2, 2)), (0,), RoutingConfig.of(own="chunk"))  # 5 frames of 4 tokens
SHARES = torch.tensor([0.1, 0.4, 0.15, 0.3, 0.05], dtype=torch.float64)
ALL = torch.ones(1, 5, dtype=torch.bool)


def chosen(score, candidate=ALL, **routing) -> list[int]:
    mask = rules.choose(score.expand(1, 1, 1, 5), candidate, TABLE, RoutingConfig.of(**routing), 1.0)
    return mask[0, 0, 0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, [1]), (0.39, [1]), (0.41, [1, 3]), (0.8, [1, 2, 3]), (0.99, [0, 1, 2, 3, 4])]
)
def test_top_p_takes_the_fewest_chunks_that_hold_the_share(share, expected):
    assert chosen(SHARES.log(), rule="top-p", top_p=share) == expected


def test_the_share_is_one_of_what_may_be_chosen():
    """Without chunk 1 the others hold .6: 3 alone has half of it."""
    candidate = torch.tensor([[True, False, True, True, True]])
    assert chosen(SHARES.log(), candidate, rule="top-p", top_p=0.49) == [3]
    assert chosen(SHARES.log(), torch.zeros_like(ALL), rule="top-p", top_p=0.9) == []


def test_a_long_chunk_counts_for_more_than_a_short_one():
    """Tiles of 1x1x3 tokens in rows of 4: with equal scores, the long ones fill the share."""
    table = build_chunks(TokenLayout(2 * 4, (2, 1, 4)), (0,), RoutingConfig.of(tile=(1, 1, 3), own="chunk"))
    assert [c.length for c in table.chunks] == [3, 1, 3, 1]
    routing = RoutingConfig.of(rule="top-p", top_p=0.75)
    mask = rules.choose(torch.zeros(1, 1, 1, 4), torch.ones(1, 4, dtype=torch.bool), table, routing, 1.0)
    assert mask.flatten().tolist() == [True, False, True, False]


def test_the_threshold_is_so_many_standard_deviations_above_the_mean():
    score = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)  # mean 2, standard deviation 1.41
    assert chosen(score, rule="threshold", beta=0.5) == [3, 4]
    assert chosen(score, rule="threshold", beta=1.4) == [4]
    assert chosen(score, rule="threshold", beta=-0.5) == [2, 3, 4]
    assert chosen(score, torch.tensor([[True, True, True, False, False]]), rule="threshold", beta=0.5) == [2]


def test_top_k_or_p_reads_what_either_does():
    assert chosen(SHARES.log(), rule="top-k or top-p", top_k=1, top_p=0.8) == [1, 2, 3]
    assert chosen(SHARES.log(), rule="top-k or top-p", top_k=4, top_p=0.4) == [0, 1, 2, 3]


def test_every_head_can_have_a_density_of_its_own():
    """A frame of five is a fifth of the pairs: the own one, and 1 or 3 more."""
    score = SHARES.log().expand(1, 2, 1, 5)
    routing = RoutingConfig.of(head_density=(0.4, 0.8))
    mask = rules.choose(score, ALL, TABLE, routing, 1.0)
    assert mask.sum(-1).flatten().tolist() == [1, 3]
    with pytest.raises(MoCError, match="2 numbers, but this model has 1 heads: give one each"):
        rules.choose(score[:, :1], ALL, TABLE, routing, 1.0)


@pytest.mark.parametrize("setting", [{"rule": "top-p"}, {"rule": "threshold"}, {"head_density": (0.1,)}])
def test_a_gpu_takes_every_rule(setting):
    q = torch.zeros(1, 1, 20, 64)
    refused = [triton.BACKEND.refuses(Call(q, TABLE, RoutingConfig.of(**how))) for how in (setting, {})]
    assert refused[0] == refused[1]
