"""Which tokens a model's self-attention sees: one file per model family, one row per diffusion model class.

Only the exact class counts: a subclass may add tokens that its parent's adapter knows nothing of.
"""

from __future__ import annotations

from . import cogvideox, cosmos, hunyuan, kandinsky, ltx, minimax, mochi, wan
from .base import Adapter, Plan

ADAPTERS: dict[str, Adapter] = {
    **dict.fromkeys(wan.CLASSES, Adapter(wan.plan, stride=4)),
    "VaceWanModel": Adapter(wan.plan, stride=4, film=wan.vace_film),
    "AnimateWanModel": Adapter(wan.plan, stride=4, film=wan.animate_film),
    **dict.fromkeys(hunyuan.CLASSES, Adapter(hunyuan.plan, stride=4)),
    **dict.fromkeys(ltx.CLASSES, Adapter(ltx.plan, stride=8, film=ltx.film, heads=ltx.heads)),
    **dict.fromkeys(cogvideox.CLASSES, Adapter(cogvideox.plan, stride=4, heads=cogvideox.heads)),
    **dict.fromkeys(mochi.CLASSES, Adapter(mochi.plan, stride=6, outer=True)),
    "GeneralDIT": Adapter(cosmos.plan, stride=8),
    "MiniTrainDIT": Adapter(cosmos.plan, stride=4),
    **dict.fromkeys(kandinsky.CLASSES, Adapter(kandinsky.plan, stride=4, heads=kandinsky.heads)),
    **dict.fromkeys(minimax.CLASSES, Adapter(minimax.plan, stride=minimax.STRIDE, heads=minimax.heads)),
}


def class_of(diffusion_model: object) -> str:
    """Its name, also where torch.compile has put a module around it."""
    return type(getattr(diffusion_model, "_orig_mod", diffusion_model)).__name__


def adapter_for(diffusion_model: object) -> Adapter | None:
    return ADAPTERS.get(class_of(diffusion_model))


__all__ = ["ADAPTERS", "Adapter", "Plan", "adapter_for", "class_of"]
