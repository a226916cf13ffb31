"""What Gluon calls things where versions of Triton differ. The kernels in `*_sm90.py` take the names from here.

They were run on a GPU with the versions in TESTED; with others Triton's kernels do the work. A test compiles them with
the version at hand, so that another one needs no more than a run of `tests/gpu/check_gpu.py` to be added.
"""

from __future__ import annotations

import triton
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import async_copy, tma

TESTED = ("3.6",)
tested = triton.__version__.startswith(tuple(version + "." for version in TESTED))

thread_barrier = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
copy_rows = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
copy_block = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
