"""Densities per head from a probe: heads that gain much from more chunks get more, the others fewer.

For a price of error, every head takes the number of chunks with the least work + price * error. Going through the
prices gives, for every block, mixes that no other division of the same work among the heads beats by much (a Lagrangian
relaxation: exact where error falls ever more slowly with work).
"""

from __future__ import annotations

import numpy as np

from ..config import RoutingConfig

PRICES = np.geomspace(1e-2, 1e6, 33)  # of the relative squared error, in shares of full attention's work


def families(options: tuple[RoutingConfig, ...]) -> list[list[int]]:
    """Options that differ in nothing but top_k."""
    found: dict[RoutingConfig, list[int]] = {}
    for index, option in enumerate(options):
        if option.budget.rule == "top-k" and not option.budget.head_density:
            found.setdefault(option.changed(top_k=0), []).append(index)
    return [members for members in found.values() if len(members) > 1]


def mix(error: np.ndarray, kept: np.ndarray, weight: np.ndarray, members: list[int]) -> np.ndarray:
    """[M, B, H]: the option of every head, for as many mixes as prices lead to.

    error, kept [S, B, O, H]: a head's part of its block's relative squared error, and its share of keys; weight [S].
    """
    loss = np.average(error[:, :, members], 0, weight)
    cost = np.average(kept[:, :, members], 0, weight) / error.shape[-1]
    picks = np.stack([(cost + price * loss).argmin(1) for price in PRICES])  # [M, B, H]
    return np.unique(np.array(members)[picks], axis=0)


def mixed(picks: np.ndarray, options: tuple[RoutingConfig, ...], density: tuple[float, ...]) -> list[RoutingConfig]:
    """picks [B, H] -> the routing of every block. density: of every option."""
    found = []
    for heads in picks.tolist():
        most = max((options[o] for o in heads), key=lambda option: option.budget.top_k)
        alike = len(set(heads)) == 1
        found.append(most if alike else most.changed(head_density=tuple(density[o] for o in heads)))
    return found


def take(values: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """values [S, B, O, H], picks [M, B, H] -> [S, B, M, H]: every head with its own option."""
    index = np.moveaxis(picks, 0, 1)[None]  # [1, B, M, H]
    return np.take_along_axis(values, np.broadcast_to(index, (len(values), *index.shape[1:])), 2)
