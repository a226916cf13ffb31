"""What MoC is measured against: dense attention by several kernels, and comfy-kitchen's sparse `sol_attn`.

All take and return [B, H, N, D] that lies as [B, N, H, D] in memory. What is not installed is left out, with a reason.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.cases import Case
from benchmarks.timing import Attention
from moc.chunks.table import ChunkTable
from moc.config import RoutingConfig

E4M3_MOST = 448.0  # the largest number of float8 e4m3
FA3_MODULES = ("fa3_fwd_interface", "flash_attn_interface")  # of the wheel fa3-fwd, of a build from source
BLOCKS = RoutingConfig.of(tile=(1, 8, 8), own="frame")  # tiles of 64 tokens, as many as a block of sol_attn has


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if not q.is_cuda:
        return scaled_dot_product_attention(q, k, v)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
        return scaled_dot_product_attention(q, k, v)


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v)


def fa3() -> dict[str, Attention] | str:
    """FlashAttention 3 in the inputs' own precision and in float8, quantizing included; or why there is none."""
    found = None
    for name in FA3_MODULES:
        try:
            found = importlib.import_module(name).flash_attn_func
            break
        except (ImportError, OSError):  # OSError: a library built for another torch or CUDA
            continue
    if found is None:
        return "FlashAttention 3 is not installed"

    def attend(q: Tensor, k: Tensor, v: Tensor, **scales: Tensor) -> Tensor:
        out = found(*(x.transpose(1, 2) for x in (q, k, v)), **scales)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)  # older ones hand over the log-sum-exp too

    def in_e4m3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (q, q_descale), (k, k_descale), (v, v_descale) = (quantized(x) for x in (q, k, v))
        return attend(q, k, v, q_descale=q_descale, k_descale=k_descale, v_descale=v_descale)

    return {"fa3": attend, "fa3_e4m3": in_e4m3}


def in_8_bits() -> dict[str, Attention | str]:
    """Dense attention in 8 bits that people have on consumer cards, or why there is none."""
    out: dict[str, Attention | str] = {}
    for peer, module, name in (("sage", "sageattention", "sageattn"), ("kitchen", "comfy_kitchen", "int8_attention")):
        try:
            out[peer] = getattr(importlib.import_module(module), name)
        except (ImportError, OSError):
            out[peer] = f"{module} is not installed"
        except AttributeError:
            out[peer] = f"this {module} has no {name}"
    return out


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, H, N, D] -> the same in float8 e4m3, and what to multiply each head by to get it back, [B, H] float32."""
    scale = x.abs().amax((2, 3)).float().clamp(min=1e-12) / E4M3_MOST
    return (x * (1 / scale)[..., None, None].to(x.dtype)).to(torch.float8_e4m3fn), scale


def sol(case: Case, share: float, table: ChunkTable) -> dict[str, Attention] | str:
    """comfy-kitchen's kernel at the same kept share, in both orders of tokens, or why it cannot run.

    tiled: tokens are brought into the order of our chunks and the output back, which is timed; where our chunks need no
    order, into tiles of 8x8.
    """
    try:
        import comfy_kitchen
    except ImportError:
        return "comfy-kitchen is not installed"
    if case.dim != 128:
        return "head dim 128 only"
    if not hasattr(comfy_kitchen, "sol_attn_is_available"):
        return "this comfy-kitchen has no sol_attn"
    if not comfy_kitchen.sol_attn_is_available():
        return f"no sol_attn here: {comfy_kitchen.list_backends()['cuda']}"[:300]
    text = [0, -(-case.text // 64)]  # blocks of 64 tokens that all see, and that see all

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, N, H, D], as they lie in memory
        return comfy_kitchen.sol_attn(q, k, v, topk_ratio=share, sink_blocks=text, sink_q=text).transpose(1, 2)

    tiles = replace(case, routing=BLOCKS).table() if table.identity else table
    return {"sol_attn": attend, "sol_attn_tiled": in_order(attend, tiles)}


def in_order(attend: Attention, table: ChunkTable) -> Attention:
    """Attention whose tokens are brought into the order of a table's chunks, and its output back."""

    def ordered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        t = table.tensors(q.device)
        q, k, v = (x.transpose(1, 2).index_select(1, t.order).transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v).transpose(1, 2).index_select(1, t.inverse).transpose(1, 2)

    return ordered
