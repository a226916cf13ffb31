"""A choice as it is kept for later steps: two bytes for every chunk that a row chose, or bits, whichever is less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..device_table import DeviceTable, device_table_for
from .csr import SelectionIndices, new_indices
from .csr_from_bits import SelectionMask


@dataclass(frozen=True)
class KeptIndices:
    """chunk [heads, N, K]; number [heads, N]: slots in use. Both are 16 bits without a sign."""

    chunk: Tensor
    number: Tensor

    @staticmethod
    def of(indices: Tensor, number: Tensor) -> KeptIndices:
        """indices: chunk * 2**16, as in `SelectionIndices`."""
        return KeptIndices((indices >> 16).to(torch.int16), number.to(torch.int16))

    def into(self, indices: Tensor, number: Tensor) -> None:
        indices.copy_(self.chunk).bitwise_left_shift_(16)
        number.copy_(self.number).bitwise_and_(0xFFFF)


@dataclass(frozen=True)
class KeptBits:
    """sel [heads, W, N], or its chunks; places: of the plan that it was attended by."""

    sel: Tensor | KeptIndices
    places: int

    @staticmethod
    def of(sel: Tensor, plan: DeviceTable, union: bool) -> KeptBits:
        if union or not indices_are_less(plan):
            return KeptBits(sel, plan.top_k)
        indices = sel.new_empty(len(sel), plan.length, plan.top_k)
        number = sel.new_empty(len(sel), plan.length)
        SelectionMask.of_plan(sel, plan).unpack(indices, number)
        return KeptBits(KeptIndices.of(indices, number), plan.top_k)

    def bits(self, plan: DeviceTable) -> tuple[Tensor, DeviceTable]:
        """plan: of the same table."""
        plan = device_table_for(plan.table, self.places, plan.device)
        if isinstance(self.sel, Tensor):
            return self.sel, plan
        chunk = self.sel.chunk
        indices = torch.empty(chunk.shape, dtype=torch.int32, device=chunk.device)
        number = indices.new_empty(chunk.shape[:2])
        self.sel.into(indices, number)
        return SelectionIndices(indices, number, number, plan.row_frames()[0]).bits(plan), plan


def indices_are_less(plan: DeviceTable) -> bool:
    return 0 < 2 * plan.top_k < 4 * plan.words - 2


def bytes_of_indices(heads: range, plan: DeviceTable) -> int:
    return len(heads) * plan.length * 2 * (plan.top_k + 1)


def bytes_of_bits(heads: range, plan: DeviceTable, union: bool) -> int:
    if union or not indices_are_less(plan):
        return len(heads) * plan.length * 4 * plan.words
    return bytes_of_indices(heads, plan)


def indices_from(kept: KeptIndices, heads: range, plan: DeviceTable) -> SelectionIndices:
    """Not `histogram`."""
    out = new_indices(len(heads), plan)
    kept.into(out.indices, out.number)
    return out
