"""Compile the kernels for Hopper and print their PTX and Triton's own code as JSON. A program of its own: in the tests'
process Triton's interpreter is in the compiler's place."""

from __future__ import annotations

import json

from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from moc.backends.triton.attend import gather_sm90, hot_chunks_sm90, tail_sm90, union_sm90
from moc.backends.triton.select import topk_filter_finish_sm90, topk_filter_sm90, topk_registers_sm90, topk_stream_sm90
from tests.tools.kernel_builds import Build

RING = dict(D=128, BN=128, STAGES=2)
HOT = RING | dict(BN=64, STAGES=4)
TOPK = dict(D=128, G=64, SIGNED=True, CAUSAL=False, SHOT_MASK=False, STAGES=4)


def tma(rows: int, width: int) -> str:
    """The type of a descriptor of such blocks."""
    layout = gl.NVMMASharedLayout.get_default_for([rows, width], gl.bfloat16)
    return f"tensordesc<bf16[{rows}, {width}],{layout!r}>"


BOTH_HALVES = {"desc_tma": tma(64, 256)}  # of a descriptor, in one block
# name -> kernel, constants, what arguments mean here and nowhere else (`kernel_builds.py`), warps
KERNELS: dict[str, tuple[object, dict, dict[str, str], int]] = {
    "routed": (gather_sm90.moc_attend_gather_sm90, RING | dict(K=5, TAIL=False), {}, 4),
    "routed, short chunks and tail": (gather_sm90.moc_attend_gather_sm90, HOT | dict(K=32, TAIL=True), {}, 4),
    "routed, head dim 64": (gather_sm90.moc_attend_gather_sm90, RING | dict(K=4, D=64, TAIL=False), {}, 4),
    "tail": (tail_sm90.moc_attend_tail_sm90, RING | dict(STAGES=3, CAUSAL=True, MASK="row"), {}, 4),
    "tail, rows alike": (tail_sm90.moc_attend_tail_sm90, RING | dict(STAGES=3, CAUSAL=False, MASK="tile"), {}, 4),
    "popular": (hot_chunks_sm90.moc_attend_hot_chunks_sm90, HOT | dict(TAIL=True), {}, 4),
    "popular, no tail": (hot_chunks_sm90.moc_attend_hot_chunks_sm90, HOT | dict(TAIL=False), {}, 4),
    "union": (union_sm90.moc_attend_union_sm90, RING | dict(STAGES=3, CS=64, TAIL=True), {}, 4),
    "stream": (
        topk_stream_sm90.moc_select_stream_sm90,
        TOPK | dict(LOW=63, STAGES=3, BITS=False),
        {"desc_tma": tma(64, 128)},
        4,
    ),
    "sift, best": (
        topk_filter_finish_sm90.moc_select_filter_finish_sm90,
        dict(BM=8, G=64, SLOTS=64, X=32, BITS=False),
        {},
        1,
    ),
    "few": (
        topk_registers_sm90.moc_select_registers_sm90,
        TOPK | dict(GROUPS=3, PASSES=3, SIGNED=False),
        BOTH_HALVES,
        4,
    ),
    "few, not so few": (
        topk_registers_sm90.moc_select_registers_sm90,
        TOPK | dict(GROUPS=2, PASSES=6, CAUSAL=True),
        BOTH_HALVES,
        4,
    ),
    "sift": (
        topk_filter_sm90.moc_select_filter_sm90,
        TOPK | dict(SLOTS=64),
        BOTH_HALVES | {"written": "*i32"},
        4,
    ),
}


def build(kernel, constants: dict, own: dict[str, str], warps: int) -> Build:
    keys, pieces, d = constants.get("BN"), constants.get("CS"), constants.get("D")
    blocks = {"k_desc": keys, "v_desc": keys, "k_piece": pieces, "v_piece": pieces, "mk_desc": 16, "mv_desc": 16}
    own = {name: tma(rows, d) for name, rows in blocks.items() if rows and d} | own
    return Build.of(kernel, constants, own, 90, {"num_warps": warps}, GluonASTSource)


if __name__ == "__main__":
    asm = {name: build(*how).compiled().asm for name, how in KERNELS.items()}
    print(json.dumps({name: {stage: code[stage] for stage in ("ptx", "ttgir")} for name, code in asm.items()}))
