"""Compile the kernels for Hopper and print their PTX and Triton's own code as JSON. A program of its own: in the tests'
process Triton's interpreter is in the compiler's place."""

from __future__ import annotations

import json
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from moc.backends.triton.attend import gather_sm90, hot_chunks_sm90, tail_sm90, union_sm90
from moc.backends.triton.select import topk_filter_finish_sm90, topk_filter_sm90, topk_registers_sm90, topk_stream_sm90

TYPES = {"q": "*bf16", "out": "*bf16", "part": "*bf16", "tail": "*bf16", "desc": "*bf16", "lse": "*fp32",
         "scale": "fp32", "weight": "*fp32", "threshold": "*fp32", "tail_lse": "*fp32", "step": "*i64",
         "mean_k": "*bf16",
         "mean_v": "*bf16"}  # fmt: skip
INDICES = ("chunk", "row", "shot_mask", "passes", "sel", "pairs", "number", "overflow_rows", "overflow_count", "entry",
    "tile", "tiles",
           "free", "sample", "sample_range", "written", "first", "stop", "span", "block", "start", "count",
           "some", "tile_first", "tile_stop", "border")  # fmt: skip
RING = dict(D=128, BN=128, STAGES=2)
KERNELS = {
    "routed": (gather_sm90.moc_attend_gather_sm90, RING | dict(K=5, TAIL=False), {}),
    "routed, short chunks and tail": (gather_sm90.moc_attend_gather_sm90, RING | dict(K=32, BN=64, STAGES=4,
        TAIL=True), {}),
    "routed, head dim 64": (gather_sm90.moc_attend_gather_sm90, RING | dict(K=4, D=64, TAIL=False), {}),
    "tail": (tail_sm90.moc_attend_tail_sm90, RING | dict(STAGES=3, CAUSAL=True, MASK="row"), {}),
    "tail, rows alike": (tail_sm90.moc_attend_tail_sm90, RING | dict(STAGES=3, CAUSAL=False, MASK="tile"), {}),
    "popular": (hot_chunks_sm90.moc_attend_hot_chunks_sm90, RING | dict(BN=64, STAGES=4, TAIL=True), {"tiles": "i32"}),
    "popular, no tail": (hot_chunks_sm90.moc_attend_hot_chunks_sm90, RING | dict(BN=64, STAGES=4, TAIL=False),
        {"tiles": "i32"}),
    "union": (union_sm90.moc_attend_union_sm90, RING | dict(STAGES=3, CS=64, TAIL=True), {"tiles": "i32"}),
    "stream": (
        topk_stream_sm90.moc_select_stream_sm90,
        dict(D=128, G=64, LOW=63, STAGES=3, BITS=False, SIGNED=True, CAUSAL=False, SHOT_MASK=False), {"tiles": "i32"},
    ),
    "sift, best": (
        topk_filter_finish_sm90.moc_select_filter_finish_sm90, dict(BM=8, G=64, SLOTS=64, X=32, BITS=False),
        {"written": "*i64"},
    ),
    "few": (
        topk_registers_sm90.moc_select_registers_sm90,
        dict(D=128, G=64, GROUPS=3, PASSES=3, STAGES=4, SIGNED=False, CAUSAL=False, SHOT_MASK=False), {"tiles": "i32"},
    ),
    "few, not so few": (
        topk_registers_sm90.moc_select_registers_sm90,
        dict(D=128, G=64, GROUPS=2, PASSES=6, STAGES=4, SIGNED=True, CAUSAL=True, SHOT_MASK=False), {"tiles": "i32"},
    ),
    "sift": (
        topk_filter_sm90.moc_select_filter_sm90,
        dict(D=128, G=64, SLOTS=64, STAGES=4, SIGNED=True, CAUSAL=False, SHOT_MASK=False), {"tiles": "i32"},
    ),
}  # fmt: skip


def compiled(kernel, constants: dict, types: dict) -> dict[str, str]:
    """ "ptx" and "ttgir" for sm_90."""
    types = TYPES | {name: "*i32" for name in INDICES} | types
    if kernel is tail_sm90.moc_attend_tail_sm90:
        types["tiles"] = "i32"
    rows = {"k_desc": constants.get("BN"), "v_desc": constants.get("BN"), "desc_tma": constants.get("G"),
            "mk_desc": 16, "mv_desc": 16, "k_piece": constants.get("CS"), "v_piece": constants.get("CS")}  # fmt: skip
    signature, d = {}, constants.get("D")
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in rows:
            wide = (
                2 * d
                if kernel in (topk_filter_sm90.moc_select_filter_sm90, topk_registers_sm90.moc_select_registers_sm90)
                else d
            )
            layout = gl.NVMMASharedLayout.get_default_for([rows[name], wide], gl.bfloat16)
            signature[name] = f"tensordesc<bf16[{rows[name]}, {wide}],{layout!r}>"
        else:
            signature[name] = types.get(name, "i32")
    places = {name: i for i, name in enumerate(kernel.arg_names)}
    aligned = {(i,): [["tt.divisibility", 16]] for name, i in places.items()
               if signature[name].startswith("*") or re.fullmatch(r"s[qo]?_(b|h|n|bh)", name)}  # fmt: skip
    source = GluonASTSource(kernel, signature, {(places[name],): value for name, value in constants.items()}, aligned)
    asm = triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": 1 if kernel is topk_filter_finish_sm90.moc_select_filter_finish_sm90 else 4},
    ).asm
    return {stage: asm[stage] for stage in ("ptx", "ttgir")}


if __name__ == "__main__":
    print(json.dumps({name: compiled(*how) for name, how in KERNELS.items()}))
