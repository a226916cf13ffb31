"""What the tests look through: attention calls that MoC leaves alone, and the layouts that it routes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from mixture_of_contexts.moc.chunks.layout import TokenLayout
from mixture_of_contexts.moc.config import MoCSettings, RoutingConfig, Schedule
from mixture_of_contexts.moc.host import apply_moc
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.trace.pair_counts import Counts
from mixture_of_contexts.moc.trace.trace import Trace

OVERRIDE = "optimized_attention_override"
TWO_SHOTS = Shots(cuts=(2,), unit="latent")


def everything(**schedule) -> MoCSettings:
    """Every chunk is chosen, so that nothing is lost."""
    return MoCSettings(RoutingConfig.of(top_k=1000, own="frame"), Schedule(**schedule))


def little(**schedule) -> MoCSettings:
    return MoCSettings(RoutingConfig.of(top_k=1, own="frame"), Schedule(**schedule))


@dataclass
class SpyTrace(Trace):
    calls: list[tuple[int, int, TokenLayout]] = field(default_factory=list)  # step, block, layout

    def start(self, steps: int = 0) -> None:
        super().start(steps)
        self.calls.clear()

    def ran_routed(self, step: int, block: int, counts: Counts) -> None:
        super().ran_routed(step, block, counts)
        self.calls.append((step, block, counts.geometry.table.layout))

    @property
    def blocks_seen(self) -> list[int]:
        return [block for _, block, _ in self.calls]


def routed(model, settings: MoCSettings | None = None, shots: Shots | None = TWO_SHOTS, **options):
    """(patched model, its trace)"""
    trace = SpyTrace()
    return apply_moc(model, shots, settings or little(), trace, **options), trace


def watched(model, calls: list) -> object:
    """A clone on which another pack has put its own attention override."""
    model = model.clone()

    def other_pack(func, q, k, v, *args, **kwargs):
        calls.append((q.detach().clone(), k.detach().clone()))
        return func(q, k, v, *args, **kwargs)

    model.model_options["transformer_options"][OVERRIDE] = other_pack
    return model


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference relative to the size of the values."""
    return float((a - b).abs().max() / b.abs().max())
