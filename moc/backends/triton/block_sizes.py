"""Block sizes by chip: fixed, so that the same input always gives the same bits. Nothing is autotuned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class BlockSize:
    block_m: int
    block_n: int
    warps: int
    stages: int
    registers: int | None = None  # a thread may use; fewer let more programs run at once
    blocks_per_program: int = 1  # query blocks (a persistent loop), in `one`


@dataclass(frozen=True)
class BlockSizes:
    """long: rows against one run of keys, a chunk or a range; short: the same where runs are below LONG tokens;
    one: the same where a chunk is one step of keys;
    tile: rows over ranges and lists; tail: rows over summaries of chunks; merge: partials only;
    router: rows against descriptors (block_n: groups of `stream`); of_keys, of_rows: gradients (`backward.py`)."""

    long: BlockSize
    short: BlockSize
    one: BlockSize
    tile: BlockSize
    tail: BlockSize
    router: BlockSize
    of_keys: BlockSize
    of_rows: BlockSize
    merge: BlockSize = BlockSize(32, 16, 4, 1)

    def keys_in_a_row(self, tokens: float) -> BlockSize:
        return self.long if tokens >= LONG else self.short

    def chunks_of(self, longest: int, typical: float) -> BlockSize:
        return self.one if longest <= self.one.block_n else self.keys_in_a_row(typical)


LONG = 1024
_ONE = BlockSize(64, 64, 4, 1, 168, 4)

# Shared memory a program may use: 227 KB on sm_90 and sm_100, 163 KB on sm_80, 99 KB on sm_86, sm_89 and sm_120.
_LARGE = BlockSizes(
    long=BlockSize(128, 64, 8, 3),
    short=BlockSize(64, 64, 4, 3),
    one=_ONE,
    tile=BlockSize(64, 64, 4, 2),
    tail=BlockSize(128, 64, 8, 3),
    router=BlockSize(64, 64, 4, 2),
    of_keys=BlockSize(64, 64, 4, 2),
    of_rows=BlockSize(128, 64, 8, 3),
)
HALF = {
    "large": _LARGE,
    "medium": replace(
        _LARGE, **{x: replace(getattr(_LARGE, x), stages=2) for x in ("long", "short", "tail", "of_rows")}
    ),
    "small": BlockSizes(
        long=BlockSize(128, 32, 8, 2),
        short=BlockSize(64, 32, 4, 2),
        one=_ONE,
        tile=BlockSize(64, 32, 4, 2),
        tail=BlockSize(64, 32, 4, 2),
        router=BlockSize(64, 64, 4, 1),
        of_keys=BlockSize(32, 64, 4, 2),
        of_rows=BlockSize(64, 32, 4, 2),
    ),
}
_LONG_32, _TILE_32 = BlockSize(64, 32, 4, 1), BlockSize(32, 32, 4, 1)
SINGLE = BlockSizes(
    _LONG_32, _LONG_32, _LONG_32, _TILE_32, _TILE_32, BlockSize(32, 32, 8, 1), of_keys=_TILE_32, of_rows=_TILE_32
)
INTERPRETED = BlockSizes(*[BlockSize(16, 16, 4, 1)] * 9)
INTERPRETED = replace(INTERPRETED, one=replace(INTERPRETED.one, blocks_per_program=2))


def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _kind(device: torch.device) -> str:
    major, minor = capability(device)
    if major in (9, 10):
        return "large"
    return "medium" if (major, minor) in ((8, 0), (8, 7)) else "small"


def takes_gluon(x: torch.Tensor) -> bool:
    """Whether the kernels for Hopper take queries like x [..., D]."""
    if x.device.type != "cuda" or x.element_size() != 2 or x.shape[-1] not in (64, 128) or x.stride(-1) != 1:
        return False
    if capability(x.device) != (9, 0):
        return False
    try:
        from .lib.gluon_compat import tested
    except ImportError:  # a Triton without Gluon
        return False
    return tested


def block_sizes_of(x: torch.Tensor) -> BlockSizes:
    if x.device.type != "cuda":
        return INTERPRETED
    return SINGLE if x.element_size() > 2 else HALF[_kind(x.device)]
