"""A few heads at a time, so that lists and partials fit into the workspace."""

from __future__ import annotations

WORKSPACE = 2**30  # bytes that lists and partials may take


def offset_in(some: range, heads: range) -> slice:
    """Where some of those heads stand among them."""
    return slice(some.start - heads.start, some.stop - heads.start)


def split_heads(heads: range, bytes_a_head: int) -> list[range]:
    """Runs of flattened heads that fit the workspace."""
    groups = max(1, min(len(heads), -(-len(heads) * bytes_a_head // WORKSPACE)))
    edges = [heads.start + len(heads) * i // groups for i in range(groups + 1)]
    return [range(low, high) for low, high in zip(edges, edges[1:], strict=False)]


def _joined(runs: list[range], bytes_a_head: int, most: int) -> list[list[range]]:
    """Neighbouring runs of heads that together take up no more than that; one run at least."""
    out: list[list[range]] = []
    for run_ in runs:
        if out and (run_.stop - out[-1][0].start) * bytes_a_head <= most:
            out[-1].append(run_)
        else:
            out.append([run_])
    return out


def head_parts(heads: range, bytes_a_head: int) -> list[tuple[range, slice]]:
    """Runs of some heads that fit the workspace, and where they stand among them."""
    return [(run_, offset_in(run_, heads)) for run_ in split_heads(heads, bytes_a_head)]
