"""Staying out of what ComfyUI records.

Since 0.34 it writes down what MiniMax H3 and LTX-2 allocate in a forward pass, block by block, and gives the next pass
the same places. What outlives its block, or is made in some passes only, breaks that and can end the process: tables of
chunks, counts of the trace, routed steps among dense ones.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

try:
    from comfy import model_prefetch
except ImportError:  # ComfyUI 0.3.75
    model_prefetch = None


def unrecorded() -> AbstractContextManager[None]:
    """For all that MoC allocates within a forward pass.

    The last reference to anything of the model's must not end inside: what was recorded can be freed only outside. Not
    to be nested: the end of the inner one ends both.
    """
    pause = getattr(model_prefetch, "pause_malloc_graph", nullcontext)  # ComfyUI 0.30.0 has none
    return pause()
