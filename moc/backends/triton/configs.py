"""Tile sizes by chip: fixed, so that the same input always gives the same bits and nothing is tuned at run time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Config:
    rows: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Configs:
    """routed: rows gathered per chunk; tile: rows over ranges, lists and tail; dense: long ranges only; merge: partials
    only; router: rows against descriptors (keys: groups of `stream`)."""

    routed: Config
    tile: Config
    dense: Config
    merge: Config
    router: Config


# Shared memory a program may use: 227 KB on sm_90 and sm_100, 163 KB on sm_80, 99 KB on sm_86, sm_89 and sm_120.
HALF = {
    "large": Configs(
        Config(128, 64, 8, 3), Config(64, 64, 4, 2), Config(128, 64, 8, 3), Config(32, 16, 4, 1), Config(64, 64, 4, 2)
    ),
    "medium": Configs(
        Config(128, 64, 8, 2), Config(64, 64, 4, 2), Config(128, 64, 8, 2), Config(32, 16, 4, 1), Config(64, 64, 4, 2)
    ),
    "small": Configs(
        Config(128, 32, 8, 2), Config(64, 32, 4, 2), Config(128, 32, 8, 2), Config(32, 16, 4, 1), Config(64, 64, 4, 1)
    ),
}
SINGLE = Configs(
    Config(64, 32, 4, 1), Config(32, 32, 4, 1), Config(64, 32, 4, 1), Config(16, 16, 4, 1), Config(32, 32, 8, 1)
)
INTERPRETED = Configs(*[Config(16, 16, 4, 1)] * 5)


@cache
def _kind(index: int) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    if major in (9, 10):
        return "large"
    return "medium" if (major, minor) in ((8, 0), (8, 7)) else "small"


def configs_of(x: torch.Tensor) -> Configs:
    if x.device.type != "cuda":
        return INTERPRETED
    return SINGLE if x.element_size() > 2 else HALF[_kind(x.device.index or 0)]
