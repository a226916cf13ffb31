"""Which way a call goes through the kernels, decided once, before any of them runs, and without a GPU.

chunk_major   few large chunks: every chunk meets the rows that chose it (gather), their partials are combined per row
query_major   many small chunks: a block of query rows meets the union of what its rows chose, every row masked
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from ...chunks.table import TILE_ROWS
from ...config import EIGHT_BITS, RoutingConfig
from . import rule_of

CHUNK_MAJOR, QUERY_MAJOR = "chunk_major", "query_major"
SMALL_CHUNK = 32  # tokens: up to here query-major (benchmarks/results: at 54 tokens chunk-major is faster)
IN_REGISTERS = 256  # chunks whose scores `topk_registers` holds at once
HOPPER = (  # kernels for it, by their files
    "gather_sm90", "hot_chunks_sm90", "tail_sm90", "union_sm90",
    "topk_filter_sm90", "topk_registers_sm90", "topk_stream_sm90",
)  # fmt: skip
OF_16_BITS = frozenset(("gather_sm90", "hot_chunks_sm90", "union_sm90"))  # of them; an attention library is as well
# Where a kernel for Hopper pays; what it can do at all is in its own file
SHORTEST = 33  # tokens of a typical chunk: below, a step of keys is mostly empty
HOT_KEYS = 64  # tokens of the longest chunk: one step of `hot_chunks_sm90`
HOT_TOP_K = range(8, 65)  # choices of a row
HOT_CHUNKS = 2**16 - 1
PASS = 64  # chunks that the selection for Hopper takes at a time
REGISTERS_PASSES = 6  # scores and all else then fit into 240 registers
STREAM_TOP_K = 32  # choices of a row, half of the groups: more overflow too many groups
FILTER_CHUNKS = 385  # among which a sample pays; `topk_registers_sm90` takes fewer
FEWEST_ROWS = 1024  # of a group; below, our own kernel is as fast as a library (benchmarks/results)


class Geometry(NamedTuple):
    """A table and its budget, in the numbers that dispatch looks at."""

    chunks: int
    free: int  # of them may be chosen
    top_k: int
    longest: int  # tokens, of the chunks that may be chosen
    typical: float
    group_rows: float  # of the routed groups, on average


class Arch(NamedTuple):
    """What runs on the device with these q, k and v. capability: None in Triton's interpreter. hopper: kernels for it
    that take them and have not failed. library: an attention library that returns its log-sum-exp takes them."""

    capability: tuple[int, int] | None = None
    hopper: frozenset[str] = frozenset()
    library: bool = False


class Wants(NamedTuple):
    """gradients: choices are kept for them. noise: drop-off or drop-in. rows: somebody wants every row's choice.
    kind, selection: these, whatever is usual."""

    gradients: bool = False
    noise: bool = False
    rows: bool = False
    kind: str | None = None
    selection: str | None = None


USUAL = Wants()


@dataclass(frozen=True)
class Dataflow:
    """kind       CHUNK_MAJOR or QUERY_MAJOR
    selection  file of select/ that finds what the rows choose
    direct     it writes down the chunks of every row; else bits
    hot        chunks that many neighbouring rows chose are attended for all of them together
    tail       "none"; "subtract": chosen chunks are in it and taken off where they are attended; "mask": they are not
    attend     file of attend/ for what was chosen
    tail_by    file of attend/ for the tail, where there is one
    library    own parts are an attention library's, where it is faster
    """

    kind: str
    selection: str
    direct: bool
    hot: bool
    tail: str
    attend: str
    tail_by: str | None
    library: bool


def usual_kind(lists: str, typical: float) -> str:
    """lists: as in a RoutingConfig; typical: mean tokens of the chunks that may be chosen."""
    return QUERY_MAJOR if lists == "union" or typical <= SMALL_CHUNK else CHUNK_MAJOR


def _by_hopper(name: str, fits: Callable[[Geometry], str | None]) -> Callable[[Geometry, Arch], str | None]:
    def refuses(g: Geometry, arch: Arch) -> str | None:
        return fits(g) if name in arch.hopper else "not on this device"

    return refuses


def _registers(g: Geometry, arch: Arch) -> str | None:
    if g.chunks > IN_REGISTERS:
        return "too many chunks"
    # Triton 3.6 finds no layout for its bits on sm_100
    return "does not build on sm_100" if arch.capability is not None and arch.capability[0] == 10 else None


def _filter(g: Geometry) -> str | None:
    if g.top_k > STREAM_TOP_K:
        return "too many choices"
    return None if g.free >= FILTER_CHUNKS else "too few chunks to take a sample of"


# The first that does not refuse finds the k best
SELECTIONS: dict[str, Callable[[Geometry, Arch], str | None]] = {
    "topk_registers_sm90": _by_hopper(
        "topk_registers_sm90",
        lambda g: None if PASS < g.chunks <= REGISTERS_PASSES * PASS else "too few chunks or too many",
    ),
    "topk_registers": _registers,
    "topk_filter_sm90": _by_hopper("topk_filter_sm90", _filter),
    "topk_stream_sm90": _by_hopper(
        "topk_stream_sm90", lambda g: None if g.top_k <= STREAM_TOP_K else "too many choices"
    ),
    "topk_stream": lambda g, arch: None,
}
STREAMS = ("topk_filter_sm90", "topk_stream_sm90", "topk_stream")  # that can write down the chunks of a row


def topk_by(g: Geometry, arch: Arch) -> str:
    """Who finds the k best."""
    return next(name for name, refuses in SELECTIONS.items() if refuses(g, arch) is None)


def choose_dataflow(g: Geometry, routing: RoutingConfig, arch: Arch, wants: Wants = USUAL) -> Dataflow:
    """The way of a call through the kernels; the second call of a kind is a look-up."""
    if routing.precision == EIGHT_BITS:
        arch = Arch(arch.capability, arch.hopper - OF_16_BITS)
    return _chosen(g, routing.lists, routing.tail, rule_of(routing), routing.same_k, arch, wants)


@lru_cache(1024)
def _chosen(g: Geometry, lists: str, tail: str, rule: str | None, same_k: bool, arch: Arch, wants: Wants) -> Dataflow:
    union, pooled = lists == "union", tail == "pooled"
    kind = wants.kind if wants.kind and not union else usual_kind(lists, g.typical)
    if rule is None:
        selection = "by_torch"
    elif not rule.startswith("top-k"):
        selection = "topp_threshold"
    else:
        selection = wants.selection or topk_by(g, arch)
    chunk_major = kind == CHUNK_MAJOR
    even = rule == "top-k" and same_k and not wants.noise and g.top_k > 0
    direct = chunk_major and even and selection in STREAMS
    return Dataflow(
        kind=kind,
        selection=selection,
        direct=direct,
        hot=chunk_major and even and not wants.gradients and not (direct and wants.rows) and hot_pays(g, arch),
        tail="none" if not pooled else "subtract" if chunk_major else "mask",
        attend=_gather_by(g, arch) if chunk_major else _block_by(g, arch, union),
        tail_by=None if not pooled else "tail_sm90" if "tail_sm90" in arch.hopper else "tail",
        library=chunk_major and arch.library and library_fits(g),
    )


def as_query_major(flow: Dataflow) -> Dataflow:
    """The same call where a partial for every choice finds no room."""
    tail = "none" if flow.tail == "none" else "mask"
    return replace(flow, kind=QUERY_MAJOR, direct=False, hot=False, tail=tail, attend="block", library=False)


def hot_pays(g: Geometry, arch: Arch) -> bool:
    fits = g.longest <= HOT_KEYS and g.typical >= SHORTEST and g.chunks < HOT_CHUNKS and g.top_k in HOT_TOP_K
    return fits and "hot_chunks_sm90" in arch.hopper


def library_fits(g: Geometry) -> bool:
    return g.group_rows >= FEWEST_ROWS


def _gather_by(g: Geometry, arch: Arch) -> str:
    return "gather_sm90" if "gather_sm90" in arch.hopper and g.typical >= SHORTEST else "gather"


def _block_by(g: Geometry, arch: Arch, union: bool) -> str:
    """A block of rows lies within a query tile, and a tile within a group: what one row chose, all did."""
    return "union_sm90" if "union_sm90" in arch.hopper and union and g.group_rows >= TILE_ROWS else "block"
