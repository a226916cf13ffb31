"""Ranks that work together have to go on, or to stop, together: one that left would leave the others waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from ..backends import head_split
from ..errors import MoCError

Attend = Callable[[Tensor, Tensor, Tensor, slice], Tensor]


@dataclass(eq=False)
class Together:
    """The ranks of a group, in one pass of a model after another. Every method but `guarded` is called by all of them,
    in the same order.

    device  of this rank, for messages between them
    """

    group: dist.ProcessGroup | None
    device: torch.device
    _failed: str = ""
    _told: dict = field(default_factory=dict)

    def all(self, true: bool) -> bool:
        """Whether it is true on every rank."""
        return self._least(int(true)) == 1

    def guarded(self, attend: Attend) -> Attend:
        """attend, which after an error gives zeros for the rest of the pass, so that no rank waits for this one in
        vain; `agree` then ends the pass everywhere."""

        def attend_or_zeros(q: Tensor, k: Tensor, v: Tensor, heads: slice) -> Tensor:
            if not self._failed:
                try:
                    return attend(q, k, v, heads)
                except Exception as error:
                    self._failed = f"{type(error).__name__}: {error}"[:300]
            return torch.zeros_like(q)

        return attend_or_zeros

    def agree(self) -> None:
        """At the end of a pass: all ranks work on as few heads at a time as the one with the least memory (the same
        bits, and nobody waits for it). Raises MoCError on every rank where a call failed on one of them."""
        failed, self._failed = self._failed, ""
        fitted = head_split.fitted(self.device)
        if self._least(int(not failed and fitted == self._told)) == 1:  # nothing new on any rank
            return
        ranks = dist.get_world_size(self.group)
        found: list[tuple[str, dict]] = [("", {})] * ranks
        dist.all_gather_object(found, (failed, fitted), group=self.group)
        for _, others in found:
            head_split.fit(self.device, others)
        self._told = head_split.fitted(self.device)
        sentences = [f"GPU {rank} of {ranks}: {text}" for rank, (text, _) in enumerate(found, 1) if text]
        if sentences:
            raise MoCError(f"routed attention failed, so all GPUs stopped. {'; '.join(sentences)}")

    def _least(self, value: int) -> int:
        told = torch.tensor(value, device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MIN, group=self.group)
        return int(told.item())
