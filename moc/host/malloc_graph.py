"""Staying out of what ComfyUI records.

Since 0.34 it writes down what MiniMax H3 and LTX-2 allocate in a forward pass, block by block, and gives the next pass
the same places. What outlives its block, or is made in some passes only, breaks that and can end the process: tables of
chunks, counts of the trace, routed steps among dense ones.

Its recorder also runs Python within an allocation, to log. Garbage that is collected there and holds a tensor waits for
ever for torch's allocator, which the allocation itself has locked. Compiling kernels leaves thousands of objects in
cycles, so that a first call of MoC would set it off, in our allocations or in the model's next one; and a copy of a
model that is no longer wanted is a cycle with its wrappers (docs/aimdo-report.md). So a run begins with a collection,
and none happens within a forward pass.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

try:
    from comfy import model_prefetch
except ImportError:  # ComfyUI 0.3.75
    model_prefetch = None

_lock = threading.RLock()  # a finalizer may run between any two lines
_inside = 0  # stretches without collection, over all threads: Python's collector is one for all of them
_was_on = False


@contextmanager
def outside_malloc_graph() -> Iterator[None]:
    """For all that MoC allocates within a forward pass.

    The last reference to anything of the model's must not end inside: what was recorded can be freed only outside. So
    garbage is not collected inside either, which is why every host gets `uncollected`, recording or not: it costs a
    microsecond. Not to be nested: the end of the inner one ends both pauses.
    """
    pause = getattr(model_prefetch, "pause_malloc_graph", nullcontext)  # ComfyUI 0.30.0 has none
    with uncollected(), pause():
        yield


@contextmanager
def uncollected() -> Iterator[None]:
    """No automatic garbage collection inside; what is due by then is collected at the end, outside any allocation.

    Everything that came up inside is young, so collecting the young is enough. May be nested and entered by several
    threads: the last one out restores what the first one found.
    """
    global _inside, _was_on
    with _lock:
        if not _inside:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if restored := _was_on and not _inside:
                gc.enable()
        if restored and 0 < gc.get_threshold()[0] < gc.get_count()[0]:
            gc.collect(0)
