"""What attention calls have counted, on its way from their devices to the CPU, without waiting for a device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .bank_reads import BankAxes
from .pair_counts import Geometry


@dataclass(frozen=True, eq=False)
class Counted:
    """One attention call.

    values [1 or 2, H or 1, F, K], half: what was chosen and, where measured, the mass (`Counts.result`); or, with the
           axes of a bank, what was read of it [1, H or 1, F, K]
    routed [], float32: part of all pairs that routing chose
    """

    step: int
    block: int
    geometry: Geometry | BankAxes
    values: Tensor
    routed: Tensor


@dataclass(eq=False)
class DeviceQueue:
    """Pending on the device, then moving, then handed out. Has no lock: the trace holds its own around every call."""

    _pending: list[Counted] = field(default_factory=list)
    _moving: list[tuple[list[Counted], list[torch.Size], Tensor, torch.cuda.Event | None]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._pending) + sum(len(calls) for calls, *_ in self._moving)

    def add(self, call: Counted) -> None:
        self._pending.append(call)

    def clear(self) -> None:
        self._pending.clear()
        self._moving.clear()

    def move(self) -> bool:
        """Move what is pending to the CPU, in one piece per device: once per forward pass. Returns whether it is still
        on its way: CUDA is not waited for, which would leave the device idle."""
        pending, self._pending = self._pending, []
        for device in dict.fromkeys(call.values.device for call in pending):
            calls = [call for call in pending if call.values.device == device]
            numbers = torch.stack([call.routed for call in calls]).view(torch.float16)  # two halves each
            piece, there = torch.cat([numbers, *(call.values.flatten() for call in calls)]), None
            if device.type == "cuda":
                with torch.cuda.device(device):
                    piece, there = piece.to("cpu", non_blocking=True), torch.cuda.Event()  # pinned memory
                    there.record()
            nothing = torch.empty(0)  # lets go of the device's memory
            left = [replace(call, values=nothing, routed=nothing) for call in calls]
            self._moving.append((left, [call.values.shape for call in calls], piece.cpu(), there))
        return any(there is not None for *_, there in self._moving)

    def arrived(self) -> list[Counted]:
        """What was moved, on the CPU. Waits for what is still on its way."""
        moving, self._moving = self._moving, []
        new: list[Counted] = []
        for calls, shapes, piece, there in moving:
            if there is not None:
                there.synchronize()
                piece = piece.clone()  # the host's pinned memory is short
            numbers, *parts = piece.split([2 * len(calls), *(shape.numel() for shape in shapes)])
            for call, shape, part, routed in zip(calls, shapes, parts, numbers.view(torch.float32), strict=True):
                new.append(replace(call, values=part.view(shape), routed=routed))
        return new
