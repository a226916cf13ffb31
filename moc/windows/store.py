"""Where the bank's keys and values lie: on the GPU as far as the budget goes, behind it in main memory."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate

from torch import Tensor

from ..backends.head_split import out_of_memory
from .packing import Packed, pack, unpack

Place = tuple[Hashable, ...]  # model, block, prompt


class Store:
    """Keys and values of frames, by place. The newest that was put for a frame is the one that is there.

    bits    of a channel: 16 keeps the model's own precision
    budget  bytes that may lie on the GPU
    """

    def __init__(self, bits: int, budget: float) -> None:
        self.bits, self.budget = bits, budget
        self.on_device = self.elsewhere = 0  # bytes
        self._frames: dict[Place, dict[int, tuple[Packed, Packed]]] = {}

    def frames(self, place: Place) -> set[int]:
        return set(self._frames.get(place, ()))

    def tokens(self, place: Place, frames: Sequence[int]) -> dict[int, int]:
        """Of every frame, in their order."""
        return {frame: self._frames[place][frame][0].codes.shape[1] for frame in frames}

    def put(self, place: Place, frame: int, k: Tensor, v: Tensor) -> None:
        """k, v [H, N, D], the keys turned to where they are read."""
        there = self._frames.setdefault(place, {})
        self._count(there.pop(frame, ()), -1)
        try:
            packed = pack(k, self.bits), pack(v, self.bits)
        except RuntimeError as failure:
            if not out_of_memory(failure):
                raise
            packed = pack(k.cpu(), self.bits), pack(v.cpu(), self.bits)
        if packed[0].codes.is_cuda and self.on_device + sum(part.bytes for part in packed) > self.budget:
            packed = packed[0].in_main_memory(), packed[1].in_main_memory()
        self._count(packed, 1)
        there[frame] = packed

    def get(self, place: Place, frames: Sequence[int], heads: slice, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, heads, tokens of all frames, D] in their order, on the device and in the precision of
        `like` [B, H, N, D]."""
        there = self._frames[place]
        count = len(range(like.shape[1])[heads])
        stops = [0, *accumulate(self.tokens(place, frames).values())]
        outs = [like.new_empty(1, count, stops[-1], like.shape[-1]) for _ in range(2)]
        for first, stop, frame in zip(stops, stops[1:], frames):
            for out, packed in zip(outs, there[frame], strict=True):
                scale = None if packed.scale is None else packed.scale[heads]
                some = Packed(packed.codes[heads], scale, packed.bits).to(like.device)
                unpack(some, out[0, :, first:stop])
        return outs[0], outs[1]

    def clear(self) -> None:
        self._frames.clear()
        self.on_device = self.elsewhere = 0

    def _count(self, parts: Sequence[Packed], sign: int) -> None:
        size = sign * sum(part.bytes for part in parts)
        if parts and parts[0].codes.is_cuda:
            self.on_device += size
        else:
            self.elsewhere += size
