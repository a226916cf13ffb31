"""How far a model's keys are turned for a distance in time: asked of its own rotary embedder.

A family stands here once a test shows that its keys, turned, are those it makes at the new place. All others get no
bank. What is turned must be all that time does to a key: a model that also adds places to its tokens is out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...windows.turn import Rotation
from ..adapters import class_of


def missing(model) -> str | None:
    """Why there is no bank for this model, if there is none."""
    name = class_of(model)
    if name not in ROWS:
        return f"it is not known how {name} places its keys in time"
    if name == "CogVideoXTransformer3DModel" and not model.use_rotary_positional_embeddings:
        return "this CogVideoX adds places to its tokens and turns no keys"
    if getattr(model, "patch_size_t", None) or getattr(model, "patch_temporal", 1) > 1:
        return "this model joins latent frames in one token"
    if name in LTX and not hasattr(model, "_precompute_freqs_cis"):
        return "this ComfyUI makes LTX's rotations in another way: update ComfyUI"
    if name in LTX and not getattr(model, "positional_embedding_max_pos", None):
        return f"it is not known how {name} places its keys in time"
    return None


def rotation(model, args: list, kwargs: dict, frames: int) -> Rotation:
    """By how much a key must be turned to stand `frames` latent frames earlier. args, kwargs: of a forward pass."""
    return ROWS[class_of(model)](model, args, kwargs, frames)


def _wan(model, args: list, kwargs: dict, frames: int) -> Rotation:
    return _axes(model.rope_embedder, frames)


def _dancer(model, args: list, kwargs: dict, frames: int) -> Rotation:
    fps = kwargs.get("fps", 30)
    return _axes(model.rope_embedder, frames * 30.0 / fps if int(fps + 0.5) != 30 else frames)


def _hunyuan(model, args: list, kwargs: dict, frames: int) -> Rotation:
    return _axes(model.pe_embedder, frames)


def _kandinsky(model, args: list, kwargs: dict, frames: int) -> Rotation:
    return _axes(model.rope_embedder_3d, frames / model.rope_scale_factor[0])


def _axes(embedder, places: float) -> Rotation:
    """Of an embedder of (time, row, column)."""
    found = embedder(torch.tensor([[[-places, 0.0, 0.0]]])).reshape(-1, 2, 2)
    return Rotation(found[:, 0, 0], found[:, 1, 0])


def _cosmos(model, args: list, kwargs: dict, frames: int) -> Rotation:
    device = model.pos_embedder.dim_temporal_range.device
    shape = (1, frames + 1, 1, 1, 1)
    found = model.pos_embedder.generate_embeddings(shape, fps=kwargs.get("fps"), device=device)[-1]
    return Rotation(found[:, 0, 0], -found[:, 1, 0], halves=True)


def _cogvideox(model, args: list, kwargs: dict, frames: int) -> Rotation:
    cos, sin = (x[-1, ::2] for x in model._get_rotary_emb(1, 1, frames + 1, "cpu"))
    return Rotation(cos, -sin)


def _mochi(model, args: list, kwargs: dict, frames: int) -> Rotation:
    angles = model.pos_frequencies[0].detach().float() * -frames
    return Rotation(angles.cos(), angles.sin())


def _ltx(model, args: list, kwargs: dict, frames: int) -> Rotation:
    """Places are seconds, and an angle is linear in them; it is 0 in the middle of the longest film."""
    seconds = frames * model.vae_scale_factors[0] / args[4]
    places = torch.zeros(1, 3, 2, 2)
    places[:, 0, 1] = seconds
    matrices, halves = model._precompute_freqs_cis(
        places,
        dim=model.inner_dim,
        out_dtype=torch.float32,
        max_pos=model.positional_embedding_max_pos,
        use_middle_indices_grid=model.use_middle_indices_grid,
        num_attention_heads=model.num_attention_heads,
    )
    now, later = matrices[0]
    between = now @ later.mT  # [H, D/2, 2, 2]
    return Rotation(between[..., 0, 0], between[..., 1, 0], halves)


WAN: tuple[str, ...] = ("WanModel", "VaceWanModel", "CameraWanModel", "HumoWanModel", "WanModel_S2V", "AnimateWanModel")
WAN += ("SCAILWanModel", "SCAIL2WanModel", "CausalWanModel")
LTX = ("LTXVModel", "LTXAVModel")
ROWS: dict[str, Callable] = {
    **dict.fromkeys(WAN, _wan),
    "WanDancerModel": _dancer,
    "HunyuanVideo": _hunyuan,
    "Kandinsky5": _kandinsky,
    "MiniTrainDIT": _cosmos,
    "CogVideoXTransformer3DModel": _cogvideox,
    "AsymmDiTJoint": _mochi,
    **dict.fromkeys(LTX, _ltx),
}
