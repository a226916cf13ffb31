"""Every other family."""

from __future__ import annotations

import inspect
from functools import partial

import torch

from .row import NEWER, Variant, image, joined, random, vision

NOWHERE = ""
POOLED = {"pooled_output": random(1, 768, seed=30)}


def pooled(shape: tuple) -> dict:
    return dict(POOLED)


def padded(tokens: int, seen: int, shape: tuple) -> dict:
    mask = torch.ones(1, tokens, dtype=torch.int64)
    mask[:, seen:] = 0
    return {"attention_mask": mask}


def hunyuan(name: str, config: dict | None = None, *, conds=pooled, before=None, note: str = "", **facts) -> Variant:
    sizes = {"in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 768, "context_in_dim": 64}
    sizes |= {"hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "theta": 256}
    sizes |= {"axes_dim": [16, 56, 56], "qkv_bias": True, "guidance_embed": True, "byt5": False, "meanflow": False}
    sizes |= {"use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
    before = before or (("text", 7),)
    return Variant(
        "HunyuanVideo",
        name,
        "HunyuanVideo",
        "hunyuan_video.model",
        sizes | (config or {}),
        conds=conds,
        before=before,
        blocks=(0, 1, 2, 3),
        note=note,
        **facts,
    )


def _reference(shape: tuple) -> dict:
    return {"ref_latent": random(1, 16, 1, *shape[3:], seed=31)}


def _byt5(shape: tuple) -> dict:
    return {"conditioning_byt5small": random(1, 6, 1472, seed=32)}


HUNYUAN_15 = {"in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None, "byt5": True}
HUNYUAN_15 |= {"guidance_embed": False, "use_cond_type_embedding": True, "vision_in_dim": 1152, "meanflow_sum": True}

LTXV = {"in_channels": 128, "cross_attention_dim": 128, "attention_head_dim": 64, "num_attention_heads": 2}
LTXV |= {"caption_channels": 64, "num_layers": 3}
LTXAV = LTXV | {"audio_in_channels": 128, "audio_cross_attention_dim": 64, "audio_attention_head_dim": 32}
LTXAV |= {"audio_num_attention_heads": 2, "connector_attention_head_dim": 64, "connector_num_attention_heads": 1}


def ltx(model: str, name: str, config: dict, **facts) -> Variant:
    cls, module = ("LTXVModel", "model") if model == "LTX-Video" else ("LTXAVModel", "av_model")
    facts = {"latent": (128, 5, 4, 4), "conds": partial(padded, 7, 5)} | facts  # only of cross-attention
    return Variant(model, name, cls, f"lightricks.{module}", config, sized=True, **facts)


def _guides(shape: tuple) -> dict:
    """Two guide frames at the end of the latent."""
    from comfy.ldm.lightricks.symmetric_patchifier import SymmetricPatchifier  # the table can be read without a host

    tokens = shape[3] * shape[4]
    # their starts, and in newer ComfyUIs also their ends
    start_and_end = (2,) if "start_end" in inspect.signature(SymmetricPatchifier).parameters else ()
    places = random(1, 3, 2 * tokens, *start_and_end, seed=33).abs()
    entries = [{"pre_filter_count": tokens, "strength": 1.0, "pixel_mask": None, "latent_shape": [1, *shape[3:]]}] * 2
    return {**padded(7, 5, shape), "keyframe_idxs": places, "guide_attention_entries": entries}


def _guide_mask(shape: tuple) -> torch.Tensor:
    mask = torch.ones(1, 1, *shape[2:])
    mask[:, :, -2:] = 0
    return mask


def _holes(shape: tuple) -> torch.Tensor:
    """The second guide has a quarter of the tokens."""
    mask = _guide_mask(shape)
    mask[:, :, -1] = -1
    mask[:, :, -1, ::2, ::2] = 0
    return mask


GUIDES = {"latent": (128, 7, 4, 4), "conds": _guides, "mask": _guide_mask, "after": (("reference", 16),) * 2}
GUIDES |= {"windows": NOWHERE, "note": "all of strength 1"}


def _cog(name: str, config: dict | None = None, **facts) -> Variant:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 64, "time_embed_dim": 64, "text_embed_dim": 64}
    sizes |= {"num_layers": 3, "use_rotary_positional_embeddings": True}
    return Variant(
        "CogVideoX",
        name,
        "CogVideoXTransformer3DModel",
        "cogvideo.model",
        sizes | (config or {}),
        before=(("text", 7),),
        since=NEWER,
        **facts,
    )


MOCHI = {"depth": 2, "hidden_size_x": 256, "hidden_size_y": 128, "num_heads": 2, "mlp_ratio_x": 48.0, "t5_feat_dim": 64}
MOCHI |= {"mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12, "qk_norm": True, "qkv_bias": False}
MOCHI |= {"use_t5": True, "timestep_scale": 1000.0, "patch_size": 2}

COSMOS = {"max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16}
COSMOS |= {"patch_spatial": 2, "patch_temporal": 1, "model_channels": 256, "num_blocks": 3, "num_heads": 2}
COSMOS |= {"crossattn_emb_channels": 64, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 32}
COSMOS_1 = COSMOS | {"block_config": "FA-CA-MLP", "block_x_format": "THWBD", "affline_emb_norm": True}
COSMOS_1 |= {"extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable"}
PREDICT = COSMOS | {"pos_emb_learnable": True, "extra_per_block_abs_pos_emb": False}

KANDINSKY = {"in_text_dim": 64, "in_text_dim2": 768, "time_dim": 64, "model_dim": 128, "ff_dim": 128}
KANDINSKY |= {"visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 3}

MINIMAX = {"hidden_size": 128, "num_layers": 3, "token_refiner_num_layers": 1, "num_attention_heads": 2}
MINIMAX |= {"attention_head_dim": 128, "ffn_hidden_size": 128, "text_dim": 64, "time_embed_hidden_size": 64}
MINIMAX |= {"time_embed_dim": 64, "timestep_input_dim": 64}


def _first_frame(shape: tuple) -> dict:
    return {**POOLED, "time_dim_replace": random(1, 16, 1, *shape[3:], seed=37)}


def _minimax(name: str, **facts) -> Variant:
    return Variant(
        "MiniMax H3",
        name,
        "MiniMaxH3Model",
        "minimax.model",
        MINIMAX,
        latent=(24, 5, 8, 8),
        audio=(1, 32, 2, 6),
        since=NEWER,
        windows=NOWHERE,
        note="cuts fall on frames 0, 1, 5, 9 and 13 of every 17",
        **facts,
    )


def _keyframe(shape: tuple) -> dict:
    frame = {"resolved_frame_index": 0, "latent": random(1, 24, 1, *shape[3:], seed=34)}
    return {"minimax_keyframes": [frame], "minimax_frame_count": 17}


def _references(shape: tuple) -> dict:
    picture = {"kind": "image", "latent_h": 4, "latent_w": 6, "latent": random(1, 24, 1, 4, 6, seed=35)}
    sound = {"kind": "audio", "ref_audio_t": 3, "audio_latent": random(1, 32, 2, 3, seed=36)}
    return {"minimax_refs": [picture, sound]}


ROWS = (
    hunyuan("1.0 t2v"),
    hunyuan(
        "1.0 t2v, padded text",
        conds=joined(pooled, partial(padded, 7, 5)),
        before=(("text", 5),),
        padding=2,
        alone=True,
        note="padding is never attended",
    ),
    hunyuan("1.0 i2v", {"in_channels": 33}, conds=joined(pooled, image(16)), windows=NEWER),
    hunyuan("1.0 reference", conds=joined(pooled, _reference), before=(("text", 7), ("reference", 16)), alone=True),
    hunyuan("1.5 t2v", HUNYUAN_15, latent=(32, 5, 4, 4), windows=NEWER),
    hunyuan(
        "1.5 i2v",
        HUNYUAN_15,
        latent=(32, 5, 4, 4),
        before=(("text", 7 + 6 + 9),),
        windows=NEWER,
        conds=joined(pooled, image(32), vision(9, 1152), _byt5),
    ),
    ltx("LTX-Video", "t2v", LTXV),
    ltx("LTX-Video", "guides", LTXV, **GUIDES),
    ltx(
        "LTX-Video",
        "small guides",
        LTXV,
        **GUIDES | {"mask": _holes, "after": (("reference", 16), ("reference", 4))},
        since=NEWER,
    ),
    ltx("LTX-2", "t2v", LTXAV, text=(7, 128), audio=(1, 8, 9, 16), since=NEWER),
    ltx("LTX-2", "as much audio as video", LTXAV, text=(7, 128), audio=(1, 8, 80, 16), since=NEWER),
    ltx("LTX-2", "guides", LTXAV, text=(7, 128), audio=(1, 8, 9, 16), since=NEWER, **GUIDES | {"windows": NEWER}),
    _cog("1.0"),
    _cog(
        "1.5",
        {"patch_size_t": 2},
        grid=(3, 4, 4),
        changed=1,
        note="two latent frames share their tokens: cuts fall on even ones",
    ),
    _cog("i2v", {"in_channels": 32}, conds=image(16)),
    Variant(
        "Mochi",
        "t2v",
        "AsymmDiTJoint",
        "genmo.joint_model.asymm_models_joint",
        MOCHI,
        sized=True,
        latent=(12, 5, 8, 8),
        conds=partial(padded, 7, 5),
        after=(("text", 5),),
        blocks=(0, 1),
    ),
    Variant("Cosmos 1", "t2v", "GeneralDIT", "cosmos.model", COSMOS_1, sized=True),
    Variant("Cosmos 1", "i2v", "GeneralDIT", "cosmos.model", COSMOS_1 | {"in_channels": 17}, sized=True, windows=NEWER),
    Variant("Cosmos-Predict2", "t2v", "MiniTrainDIT", "cosmos.predict2", PREDICT, sized=True),
    Variant(
        "Cosmos-Predict2",
        "i2v",
        "MiniTrainDIT",
        "cosmos.predict2",
        PREDICT | {"in_channels": 17},
        sized=True,
        windows=NEWER,
    ),
    Variant("Kandinsky 5", "t2v", "Kandinsky5", "kandinsky5.model", KANDINSKY, sized=True, conds=pooled, since=NEWER),
    Variant(
        "Kandinsky 5", "i2v", "Kandinsky5", "kandinsky5.model", KANDINSKY, sized=True, conds=_first_frame, since=NEWER
    ),
    _minimax("t2v", before=(("text", 7), ("audio", 12))),
    _minimax("keyframe", conds=_keyframe, before=(("text", 7), ("reference", 16), ("audio", 12))),
    _minimax("references", conds=_references, before=(("text", 7), ("reference", 6), ("audio", 6), ("audio", 12))),
)
