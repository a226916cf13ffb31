"""Keys and values in less memory: 8 or 4 bits a channel, with a scale for every token and head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = {8: 127, 4: 7}  # code of the channel that is furthest from 0


@dataclass(frozen=True, eq=False)
class Packed:
    """codes  as they came [H, N, D], int8 [H, N, D], or two of 4 bits in a byte [H, N, D/2]
    scale   size of a code's step [H, N, 1], bfloat16, whose range holds every model's; None where codes are the values
    bits    of a code: 16 for the values themselves
    """

    codes: Tensor
    scale: Tensor | None
    bits: int

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self.codes, self.scale) if x is not None)

    def to(self, device: torch.device) -> Packed:
        scale = None if self.scale is None else self.scale.to(device, non_blocking=True)
        return Packed(self.codes.to(device, non_blocking=True), scale, self.bits)

    def in_main_memory(self) -> Packed:
        """Where a GPU fetches it from without the processor's help, if the machine lets it."""
        found = Packed(self.codes.cpu(), None if self.scale is None else self.scale.cpu(), self.bits)
        try:
            pinned = None if found.scale is None else found.scale.pin_memory()
            return Packed(found.codes.pin_memory(), pinned, self.bits)
        except RuntimeError:  # no GPU, or no more memory that may be pinned
            return found


def packed_bytes(tokens: int, heads: int, width: int, bits: int, plain: int) -> int:
    """Of keys or values of so many tokens; plain: bytes of a channel that is not packed."""
    return tokens * heads * (width * bits // 8 + 2 if bits in LARGEST else width * plain)


def pack(x: Tensor, bits: int) -> Packed:
    """x [H, N, D], D even. Every channel comes back within half a step, a step being the token's largest channel over
    127 or 7."""
    if bits not in LARGEST:
        return Packed(x.clone(memory_format=torch.contiguous_format), None, bits)
    most = LARGEST[bits]
    scale = (x.abs().amax(-1, keepdim=True).float() / most).to(torch.bfloat16)
    codes = (x.float() / scale.float().clamp_min(torch.finfo(torch.bfloat16).tiny)).round_().clamp_(-most, most)
    if bits == 8:
        return Packed(codes.to(torch.int8), scale, bits)
    low, high = (codes + 8).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    return Packed(low | high << 4, scale, bits)


def unpack(packed: Packed, out: Tensor) -> None:
    """Into out [H, N, D], of any precision, on the codes' device."""
    if packed.scale is None:
        out.copy_(packed.codes)
    elif packed.bits == 4:
        parts = out.unflatten(-1, (-1, 2)).unbind(-1)
        for part, codes in zip(parts, (packed.codes & 15, packed.codes >> 4), strict=True):
            part.copy_((codes.to(torch.int8) - 8) * packed.scale)
    else:
        out.copy_(packed.codes * packed.scale.float())
