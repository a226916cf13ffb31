"""Tokens that are alike, put together: k-means, the same for the same input."""

from __future__ import annotations

import torch
from torch import Tensor

from .descriptors import wide

ROUNDS = 10


def clusters(x: Tensor, count: int) -> Tensor:
    """x [N, D] -> the cluster of every token [N], of at most `count`: those of SVG 2 (arXiv 2505.18875, section 4.1),
    Lloyd's rounds with Euclidean distances. They begin at tokens spread evenly and not at random ones, and sums are
    made in the order of the tokens, so that nothing depends on chance. A cluster that gets no token is left out."""
    x = wide(x)
    count = min(count, len(x))
    middle = x[torch.arange(count, device=x.device) * len(x) // count]
    label = _nearest(x, middle)
    for _ in range(ROUNDS):
        order, sizes = label.argsort(stable=True), torch.bincount(label, minlength=count)
        means = torch.segment_reduce(x[order], "mean", lengths=sizes, unsafe=True)
        middle = torch.where(sizes[:, None] > 0, means, middle)
        label = _nearest(x, middle)
    return label


def _nearest(x: Tensor, middle: Tensor) -> Tensor:
    return (x @ middle.mT - middle.square().sum(-1) / 2).argmax(-1)
