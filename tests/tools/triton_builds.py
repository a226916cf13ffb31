"""The kernels that every card takes, as they are built for cards that nobody here has."""

from __future__ import annotations

from moc.backends.triton.attend import backward, block, gather, tail
from moc.backends.triton.block_sizes import HALF, BlockSize, BlockSizes
from moc.backends.triton.lib import pair_counts, permute, pool, quantise
from moc.backends.triton.lists import csr, csr_from_bits, hot_chunks, unions
from moc.backends.triton.select import topk_exact, topk_registers, topk_stream, topp_threshold, union_mask
from tests.tools.kernel_builds import Build

ARCHITECTURES = {"sm_86": "small", "sm_120": "small"}
EIGHT_BITS = {"sm_80": "medium", "sm_86": "small", "sm_89": "small", "sm_90": "large", "sm_120": "small"}
WIDE = dict.fromkeys(("q8", "k8", "q_scale", "k_scale", "offset"))  # left out in 16 bits
HEAD = dict(D=128, DP=128, PRECISION="tf32")
# What arguments mean in these kernels and nowhere else (`kernel_builds.py`)
KEYS: dict[str, str] = {"k": "*bf16"}
OWN_TYPES: dict[object, dict[str, str]] = {
    block.moc_attend_block: KEYS,
    gather.moc_attend_gather: KEYS,
    gather.moc_attend_gather_short: KEYS,
    backward.moc_bwd_kv: KEYS,
    backward.moc_bwd_q: KEYS,
    csr.moc_lists_scatter: {"first": "i32"},
    csr_from_bits.moc_lists_bits_scatter: {"first": "i32"},
    quantise.moc_quantise: {"mean": "*fp32"},
    pair_counts.moc_count_choices: {"pairs": "*fp32"},
    pair_counts.moc_count_frames: {"pairs": "*fp32", "part": "*i32"},
}


def kernels_of_8_bits(c: BlockSizes) -> dict[str, tuple[object, dict, BlockSize]]:
    """Those of `kernels` that take 8-bit queries and keys as well, and what makes these."""
    names = ("routed, long", "routed, short", "routed, one step", "tile, long", "tile, short", "tile, lists")
    usual = {name: kernel for name, kernel in kernels(c).items() if name in names}
    eight = {
        f"{name}, 8 bits": (kernel, {n: value for n, value in constants.items() if n not in WIDE}, how)
        for name, (kernel, constants, how) in usual.items()
    }
    rows = dict(D=128, DP=128, BR=64)
    return eight | {
        f"8 bits, {name}": (quantise.moc_quantise, rows | dict(KEY=name == "keys"), BlockSize(0, 0, 4, 1))
        for name in ("queries", "keys")
    }


def kernels(c: BlockSizes) -> dict[str, tuple[object, dict, BlockSize]]:
    """name -> (kernel, constants, how)."""
    router = dict(D=128, DP=128, PRECISION="tf32x3", SIGNED=True, CAUSAL=True, SHOT_MASK=False)
    deal = dict(G=c.router.block_n, BM=c.router.block_m, LOW=63, BITS=False) | router
    rule = router | dict(BM=c.router.block_m, G=c.router.block_n, PASSES=topp_threshold.PASSES)
    again = BlockSize(c.router.block_m, c.router.block_n, 2 * c.router.warps, c.router.stages)
    repaired = router | dict(BM=16, G=c.router.block_n)
    pooled = dict(D=128, DP=128, BL=32, CHUNKS=1, REST=False, RANGE=False, HALFWAY=False, EXACT=False)
    parts = dict(OWN=False, RANGES=True, LISTS=False, SHARED=False, SLOTS=True, REST=True, TAIL=True, TOTAL=True) | HEAD
    parts |= WIDE

    def rows(of: BlockSize, **more) -> tuple[dict, BlockSize]:
        return dict(BM=of.block_m, STAGES=of.stages, **HEAD) | more, of

    def tiles(of: BlockSize, **more) -> tuple[dict, BlockSize]:
        return parts | dict(BM=of.block_m, BN=of.block_n, CS=of.block_n, K=16, STAGES=of.stages) | more, of

    return {
        "route": (
            topk_registers.moc_select_registers,
            router | dict(DB=64, BM=c.router.block_m, CP=256, FEW=False),
            BlockSize(0, 0, 4, 1),
        ),
        "threshold": (topp_threshold.moc_select_topp_threshold, rule | dict(TOP_P=False, MORE=False), c.router),
        "top-p": (topp_threshold.moc_select_topp_threshold, rule | dict(TOP_P=True, MORE=True), c.router),
        "deal": (topk_stream.moc_select_stream, deal | dict(R=4, RETRY=False), c.router),
        "deal again": (topk_stream.moc_select_stream, deal | dict(R=8, RETRY=True), again),
        "repair": (topk_exact.moc_select_exact, repaired | dict(BITS=False), BlockSize(0, 0, 4, c.router.stages)),
        "routed, long": (gather.moc_attend_gather, *rows(c.long, BN=c.long.block_n, K=5, TAIL=True, **WIDE)),
        "routed, short": (gather.moc_attend_gather, *rows(c.short, BN=c.short.block_n, K=16, TAIL=True, **WIDE)),
        "routed, one step": (
            gather.moc_attend_gather_short,
            *rows(c.one, BN=64, K=32, TILES=c.one.blocks_per_program, TAIL=True, **WIDE),
        ),
        "tile, long": (block.moc_attend_block, *tiles(c.long)),
        "tile, short": (block.moc_attend_block, *tiles(c.short)),
        "tile, lists": (block.moc_attend_block, *tiles(c.tile, LISTS=True, SLOTS=False, REST=False, CS=16)),
        "merge": (block.moc_attend_block, *tiles(c.merge, OWN=True, RANGES=False)),
        "tail": (tail.moc_attend_tail, *rows(c.tail, BN=c.tail.block_n, CAUSAL=True, MASK="row")),
        "gradients by keys": (
            backward.moc_bwd_kv,
            *rows(c.of_keys, BN=c.of_keys.block_n, K=5, ROWS=512, LISTED=True, ROWS_TOO=False),
        ),
        "gradients by keys and rows": (
            backward.moc_bwd_kv,
            *rows(c.of_keys, BN=c.of_keys.block_n, K=32, ROWS=512, LISTED=True, ROWS_TOO=True),
        ),
        "gradients by rows": (backward.moc_bwd_q, *rows(c.of_rows, BN=c.of_rows.block_n, K=5, ROWS=512, LISTED=True)),
        "gradients by summaries": (backward.moc_bwd_tail_kv, *rows(c.of_keys, BN=c.of_keys.block_n, CAUSAL=True)),
        "gradients by rows that skip": (backward.moc_bwd_tail_q, *rows(c.of_rows, BN=c.of_rows.block_n, CAUSAL=True)),
        "popular chunks": (hot_chunks.moc_lists_hot_find, dict(K=32, KP=32, S=4, MOST=64), BlockSize(0, 0, 4, 1)),
        "what is left": (hot_chunks.moc_lists_hot_rest, dict(K=32, KP=32, TURNS=4, BR=32), BlockSize(0, 0, 4, 1)),
        "places": (csr.moc_lists_scatter, dict(K=32, TURNS=4, B=1024), BlockSize(0, 0, 4, 1)),
        "counts of bits": (
            csr_from_bits.moc_lists_bits_histogram,
            dict(BS=csr_from_bits.SQUARES),
            BlockSize(0, 0, 1, 1),
        ),
        "places of bits": (
            csr_from_bits.moc_lists_bits_scatter,
            dict(K=16, BS=csr_from_bits.SQUARES),
            BlockSize(0, 0, 1, 1),
        ),
        "tiles of lists": (csr.moc_lists_tiles, dict(ROWS=128, BT=256), BlockSize(0, 0, 4, 1)),
        "order": (permute.moc_permute, dict(D=128, DP=128, BR=32), BlockSize(0, 0, 4, 1)),
        **{
            f"pool, {name}": (pool.moc_pool, pooled | {name: True}, BlockSize(0, 0, 4, 1))
            for name in ("REST", "RANGE", "EXACT")
        },
        "pool, halfway": (pool.moc_pool, pooled | dict(RANGE=True, HALFWAY=True), BlockSize(0, 0, 2, 1)),
        "shared lists": (
            union_mask.moc_select_union_mask,
            dict(BM=64, CAUSAL=True, SHOT_MASK=True),
            BlockSize(0, 0, 2, 1),
        ),
        "union": (unions.moc_lists_union, dict(BM=64, BP=64, OWN=True, PAIRS=False), BlockSize(0, 0, 4, 1)),
        "union of words": (unions.moc_lists_union_words, dict(BM=64, OWN=True, PAIRS=False), BlockSize(0, 0, 1, 1)),
        "choices of bits": (csr_from_bits.moc_lists_bits_to_indices, dict(K=16, BR=64), BlockSize(0, 0, 1, 1)),
        "ranks": (csr.moc_lists_histogram, dict(K=32, TURNS=4, B=1024), BlockSize(0, 0, 4, 1)),
        "bits of choices": (csr.moc_lists_set_bits, dict(K=32, B=1024), BlockSize(0, 0, 4, 1)),
        "deltas": (backward.moc_bwd_delta, dict(D=128, DP=128, BM=64), BlockSize(0, 0, 4, 1)),
        "counts of frames": (
            pair_counts.moc_count_frames,
            dict(BR=pair_counts.ROWS, IN_A_ROW=False, JOINED=True),
            BlockSize(0, 0, 1, 1),
        ),
        "repair, bits": (topk_exact.moc_select_exact, repaired | dict(BITS=True), BlockSize(0, 0, 4, c.router.stages)),
        "deal, bits": (topk_stream.moc_select_stream, deal | dict(R=4, RETRY=False, BITS=True), c.router),
        "counts": (pair_counts.moc_count_choices, dict(TURNS=4, BC=32, BF=32, JOINED=True), BlockSize(0, 0, 4, 1)),
    }


def build(kernel, constants: dict, how: BlockSize, architecture: int) -> Build:
    options = {"num_warps": how.warps, "num_stages": how.stages}
    if how.registers:
        options["maxnreg"] = how.registers
    return Build.of(kernel, constants, OWN_TYPES.get(kernel, {}), architecture, options)


def builds() -> dict[tuple[str, str], Build]:
    """(architecture, name of the kernel) -> build."""
    found = [(card, kernels(HALF[size])) for card, size in ARCHITECTURES.items()]
    found += [(card, kernels_of_8_bits(HALF[size])) for card, size in EIGHT_BITS.items()]
    return {(card, name): build(*how, int(card[3:])) for card, of in found for name, how in of.items()}
