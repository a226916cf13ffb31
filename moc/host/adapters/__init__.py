"""Which tokens a model's self-attention sees: one file per model family, one row per diffusion model class.

Only the exact class counts: a subclass may add tokens that its parent's adapter knows nothing of.
"""

from __future__ import annotations

from . import wan
from .plan import Adapter, Plan

ADAPTERS: dict[str, Adapter] = {**dict.fromkeys(wan.CLASSES, Adapter(wan.plan, stride=4))}


def adapter_for(diffusion_model: object) -> Adapter | None:
    return ADAPTERS.get(type(diffusion_model).__name__)


__all__ = ["ADAPTERS", "Adapter", "Plan", "adapter_for"]
