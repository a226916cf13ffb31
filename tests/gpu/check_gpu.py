"""Is the GPU engine right? Odd layouts against the reference, for test_layouts.py.

Error rule (FlashAttention's): at most twice the error of plain torch in the same precision, plus the rounding of the
reference itself. Outputs are poisoned with NaN before every call, inputs are fresh, a second call, head by head, must
agree bit by bit and may not wait for the device, and what it counts for a trace must be what was chosen. Gradients
by q, k and v follow the same rule, with half a percent of the largest on top (float32: one percent).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moc.backends import library, reference
from moc.backends.kept import KeptChoice
from moc.backends.triton import autograd, forward, rule_of
from moc.backends.triton.dataflow import Wants, library_fits
from moc.backends.triton.device_table import device_table_of
from moc.backends.triton.lib import head_ranges
from moc.backends.triton.select import first_plan
from moc.chunks.build import build_chunks
from moc.chunks.table import TILE_ROWS, ChunkTable
from moc.config import RoutingConfig
from moc.routing.candidates import candidates
from moc.routing.descriptors import wide
from moc.routing.scores import chunk_means
from moc.routing.selection import Selection
from moc.trace.pair_counts import Counts
from tests.gpu.check_more import film, poison

R = RoutingConfig.of


# name: layout, shot starts, routing, batch, heads, dim (each with the reason why it is here)
CASES = {
    "own shot, causal, text": (film((12, 10, 13), 77), (0, 5, 6), R(top_k=4, causal=True), 1, 3, 128),
    "own chunk, batch of 2": (film((6, 15, 20)), (0,), R(top_k=3, own="chunk"), 2, 2, 128),
    "more choices than chunks": (film((5, 9, 11), 5), (0, 2), R(top_k=40, own="frame", chunk_tokens=30), 1, 2, 128),
    "chunks of one token": (
        film((3, 9, 13)), (0, 1), R(top_k=9, tile=(1, 1, 1), own="frame", tail="pooled"), 1, 2, 64,
    ),
    "2x2 tiles, own chunk below a tile of rows": (
        film((4, 13, 17), 31), (0, 2), R(top_k=11, tile=(1, 2, 2), own="chunk", descriptor="minmax"), 1, 2, 128,
    ),
    "8x8 tiles, ragged, min-max, tail": (
        film((9, 30, 50)), (0, 4),
        R(top_k=32, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled"), 1, 2, 128,
    ),
    "popular chunks, text, tail": (
        film((12, 30, 50), 31), (0, 5),
        R(top_k=60, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled"), 1, 2, 128,
    ),
    "popular chunks, batch of 2, head dim 64": (
        film((11, 31, 47)), (0,), R(top_k=41, tile=(1, 8, 8), own="frame"), 2, 2, 64,
    ),
    "large chunks, tail, window": (
        film((10, 16, 17), 9), (0, 5), R(top_k=3, own="frame", window=1, tail="pooled"), 1, 2, 128,
    ),
    "first frames static, outer loop": (
        film((12, 8, 9)), (0, 3, 6, 9), R(top_k=5, tile=(1, 4, 4), static="first frame", shots_kept=2), 1, 2, 64,
    ),
    "first tokens static, reference routed": (
        film((8, 12, 12), 3, 150), (0, 4), R(top_k=4, static="first tokens", static_tokens=20), 1, 2, 96,
    ),
    "reference linked, text after, odd dim": (
        film((7, 11, 19), 0, 201, 40), (0, 3), R(top_k=2, references="linked", own="frame", tail="pooled"), 1, 2, 40,
    ),
    "a choice for a tile, tail": (
        film((8, 12, 6), 7), (0, 3), R(top_k=3, tile=(2, 4, 4), own="chunk", shared=1, tail="pooled"), 1, 2, 64,
    ),
    "nothing owned, a choice for two runs": (
        film((12, 30, 50)), (0, 5),
        R(density=0.2, order="raster", chunk_tokens=64, own="none", shared=2), 1, 2, 128,
    ),
    "nothing owned, neighbours on a curve, tail": (
        film((5, 10, 11)), (0,),
        R(top_k=1, order="gilbert", chunk_tokens=48, own="none", near="touching", shared=1, tail="pooled"), 1, 2, 64,
    ),
    "nothing owned, small tiles in a box": (
        film((6, 8, 10), 9), (0, 2), R(top_k=0, tile=(1, 2, 2), own="none", near="box", box=(3, 3, 3)), 1, 2, 64,
    ),
    "one budget for a head": (
        film((8, 16, 16)), (0, 3), R(rule="best of head", top_p=0.2, tile=(1, 8, 8), own="chunk"), 2, 2, 128,
    ),
    "all frames one chunk": (film((4, 20, 30)), (0,), R(top_k=2, tile=(4, 20, 30), own="chunk"), 1, 2, 128),
    "union lists, 8x8 tiles, tail": (
        film((6, 26, 34), 20), (0, 3),
        R(top_k=8, tile=(1, 8, 8), own="frame", descriptor="minmax", tail="pooled", lists="union"), 1, 2, 128,
    ),
    "union lists across small groups, outer loop, causal": (
        film((8, 12, 14)), (0, 2, 4, 6),
        R(top_k=3, tile=(1, 4, 5), own="chunk", lists="union", shots_kept=2, causal=True, tail="pooled"), 2, 2, 64,
    ),
    "many chunks, text, tail": (
        film((20, 24, 34), 13), (0, 6),
        R(top_k=20, tile=(1, 4, 4), own="frame", descriptor="minmax", tail="pooled"), 1, 2, 128,
    ),
    "many alike chunks": (film((24, 24, 34)), (0,), R(top_k=21, tile=(1, 4, 4), own="frame"), 1, 2, 128),
    "many chunks, outer loop, causal": (
        film((24, 18, 26)), (0, 5, 11, 18),
        R(top_k=32, tile=(1, 3, 3), own="chunk", shots_kept=2, causal=True, tail="pooled"), 2, 2, 64,
    ),
    "two hundred chunks, outer loop, causal, text": (
        film((12, 16, 17), 40), (0, 3, 6, 9),
        R(top_k=7, tile=(1, 4, 4), own="frame", shots_kept=2, causal=True), 2, 2, 128,
    ),
    "two hundred alike chunks, tail": (
        film((24, 18, 24)), (0,), R(top_k=16, tile=(2, 6, 4), own="chunk", tail="pooled"), 1, 2, 128,
    ),
    "nearly four hundred chunks, min-max": (
        film((15, 20, 20)), (0, 7),
        R(top_k=48, tile=(1, 4, 4), own="frame", descriptor="minmax"), 1, 2, 64,
    ),
    "four hundred chunks, mean+max+min, tail": (
        film((16, 20, 20), 9), (0, 7),
        R(top_k=20, tile=(1, 4, 4), own="frame", descriptor="mean+max+min", tail="pooled"), 1, 2, 128,
    ),
    "drop-off and drop-in, text": (
        film((12, 16, 17), 40), (0, 5),
        R(top_k=6, tile=(1, 8, 9), own="frame", tail="pooled", drop_off=0.7, drop_in=2.0, seed=3), 2, 2, 128,
    ),
    "drop-off and drop-in, many chunks": (
        film((20, 24, 34)), (0, 6),
        R(top_k=20, tile=(1, 4, 4), own="frame", descriptor="minmax", drop_off=0.5, drop_in=1.0), 1, 2, 64,
    ),
    "top-p, text, tail": (
        film((12, 16, 17), 40), (0, 5),
        R(rule="top-p", top_p=0.4, tile=(1, 8, 9), own="frame", descriptor="minmax", tail="pooled"), 2, 2, 128,
    ),
    "threshold, many chunks": (
        film((20, 24, 34)), (0, 6), R(rule="threshold", beta=2.0, tile=(1, 4, 4), own="frame"), 1, 2, 64,
    ),
    "density per head": (film((10, 20, 30)), (0, 4), R(head_density=(0.2, 0.5), own="shot"), 1, 2, 128),
    "nothing routed": (film((6, 20, 30), 64), (0, 3), R(top_k=0, tail="pooled"), 1, 2, 128),
}  # fmt: skip


class Choice:
    """Collects what was chosen."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def add(self, rows: slice, chosen: Tensor) -> None:
        self.parts.append(chosen)


def expected(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, rows: Tensor,
    chosen: Tensor | None = None, low: bool = False,
) -> Tensor:  # fmt: skip
    """Plain torch for some rows (sorted order) -> [B, H, R, D]; in float32, or with `low` in the inputs' precision.

    chosen [B, H, R, C]: take this choice instead of making it.
    """
    t = table.tensors(q.device)
    mandatory, candidate = candidates(table, routing, rows, q.device)
    if chosen is None:
        chosen = Selection(q, k, table, routing, scale, v=v).of(rows).chosen
        if routing.lists == "union":
            raise ValueError("rows of a query tile belong together: name the choice")
    as_is = (lambda x: x) if low else wide
    logits = wide(as_is(q[:, :, rows]) @ as_is(k).mT) * scale
    logits = logits.masked_fill(~(mandatory | chosen)[..., t.chunk_of], -torch.inf)
    values = as_is(v)
    if routing.tail == "pooled":
        mean_k, mean_v = (as_is(chunk_means(x, table).to(x.dtype if low else torch.float32)) for x in (k, v))
        summary = wide(as_is(q[:, :, rows]) @ mean_k.mT) * scale + t.lengths.float().log()
        logits = torch.cat([logits, summary.masked_fill(~(candidate & ~chosen), -torch.inf)], -1)
        values = torch.cat([values, mean_v], -2)
    return as_is(logits.softmax(-1).to(values.dtype) @ values).float()


def check(name: str, dtype: torch.dtype, seed: int, which: str | None = None, device: str = "cuda") -> dict[str, Any]:
    layout, starts, routing, b, h, d = CASES[name]
    noisy = bool(routing.noise)  # as in training; then the device is asked how long lists got
    table = build_chunks(layout, starts, routing)
    torch.manual_seed(seed)
    n = layout.length
    # as a fused projection leaves them: strided, not contiguous
    q, k, v = torch.randn(b, n, 3, h, d, device=device).to(dtype).unbind(2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if "alike" in name:  # every chunk twice
        k[:, :, n // 2 :] = k[:, :, : n - n // 2]
    scale = d**-0.5
    everything = torch.arange(n, device=device)
    theirs, ours = Choice(), Choice()
    reference.attend(q, k, v, table, routing, scale=scale, training=noisy, record=theirs)
    forward.run(
        q, k, v, table, routing, scale, ours, wants=Wants(kind=which), training=noisy
    )  # row by row, which is not how it runs otherwise
    first_plan(table, routing, q).frame_parts()  # geometry is uploaded once
    counted, added = (Counts(table, h, q.device, b) for _ in "ab")
    if device == "cuda" and not noisy and rule_of(routing) == "top-k":
        torch.cuda.set_sync_debug_mode("error")
    poison(q)
    out = forward.run(q, k, v, table, routing, scale, counted, wants=Wants(kind=which), training=noisy)
    kept, usual = KeptChoice(), Wants(kind=which)
    taken = [forward.run(q, k, v, table, routing, scale, wants=usual, kept=kept) for _ in "ab" if not noisy]
    poison(q)
    workspace = head_ranges.WORKSPACE
    # head by head; but FlashAttention 2 cuts keys by how many heads there are, so there the same call once more
    by_library = library.usable(q) and library_fits(first_plan(table, routing, q).geometry)
    if not by_library or library.by_cudnn(q):
        head_ranges.WORKSPACE = 1
    try:
        again = forward.run(q, k, v, table, routing, scale, wants=Wants(kind=which), training=noisy)
    finally:
        head_ranges.WORKSPACE = workspace
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("default")
    mine, want = torch.cat(ours.parts, 2), torch.cat(theirs.parts, 2)
    agree = (mine == want).all(-1)
    added.add(slice(0, n), mine)
    exact = expected(q, k, v, table, routing, scale, everything, mine)
    plain = expected(q, k, v, table, routing, scale, everything, mine, low=True)
    mistake, allowed = (out.float() - exact).abs().max(), (plain - exact).abs().max()
    atol = 2 * (exact + 0.3 - 0.3 - exact).abs().max()
    forward_only = routing.lists == "union" or table.owns_nothing
    slope = {} if forward_only else check_gradients(q, k, v, table, routing, scale, mine, which)
    least = 5e-3 if dtype == torch.float32 else 0.0  # tf32 products, where torch uses float32
    return {
        "case": name, "dtype": str(dtype)[6:], "engine": which or "auto", "tokens": n, "chunks": len(table.chunks),
        "error": float(mistake), "allowed": float(2 * allowed + atol + least), "nan": bool(out.isnan().any()),
        "rows_other_choice": float((~agree).float().mean()), "shared": routing.lists == "union",
        "any_size": not routing.same_k,
        "same_size": bool((mine.sum(-1) == want.sum(-1)).all()),
        "same_bits": bool(torch.equal(out, again)),
        "same_bits_of_kept": noisy or (kept.taken and all(torch.equal(out, one) for one in taken)),
        "same_counts": torch.equal(counted.result()[0], added.result()[0]),
    } | slope  # fmt: skip


def check_gradients(
    q: Tensor, k: Tensor, v: Tensor, table: ChunkTable, routing: RoutingConfig, scale: float, chosen: Tensor,
    which: str | None,
) -> dict[str, list[float]]:  # fmt: skip
    """Gradients by q, k, v of the first head, against autograd in float32 and in the inputs' precision."""
    kept = forward.SavedForBackward.of(q, True)
    out = forward.run(q, k, v, table, routing, scale, wants=Wants(kind=which), keep=kept, training=True)
    grad = torch.randn_like(out)
    ours = autograd.gradients(q, k, v, out, grad, kept, device_table_of(table, routing, q.device), routing, scale)
    everything, first = torch.arange(q.shape[2], device=q.device), (slice(1), slice(1))
    found: list[list[Tensor]] = []
    for low in (False, True):
        x = [(y[first] if low else y[first].float()).detach().requires_grad_() for y in (q, k, v)]
        want = expected(*x, table, routing, scale, everything, chosen[first], low=low)
        found.append([g.float() for g in torch.autograd.grad(want, x, grad[first].float())])
        del want
    error = [float((a[first].float() - b).abs().max()) for a, b in zip(ours, found[0], strict=True)]
    least = 1e-2 if q.dtype == torch.float32 else 5e-3  # tf32 products, where torch uses float32
    allowed = [float(2 * (a - b).abs().max() + least * b.abs().max()) for b, a in zip(*found, strict=True)]
    return {"gradient_error": error, "gradient_allowed": allowed}


def good(r: dict[str, Any]) -> bool:
    # a score that ties within rounding moves a row, with shared lists a query tile
    moved = 2e-3 + (TILE_ROWS / r["tokens"] if r["shared"] else 0)
    fits = r["error"] <= r["allowed"] and r["rows_other_choice"] <= moved
    fits = fits and all(a <= b for a, b in zip(r.get("gradient_error", []), r.get("gradient_allowed", []), strict=True))
    sizes = r["same_size"] or r["shared"] or r["any_size"]
    return bool(fits and not r["nan"] and r["same_bits"] and r["same_bits_of_kept"] and sizes and r["same_counts"])
