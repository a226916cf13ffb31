"""Ways to compute the same attention. One file or folder each, and one line here: `registry.py` says what it holds.

"auto" asks them in this order.
"""

from __future__ import annotations

from . import eager, reference, triton
from .registry import BACKENDS

for _backend in (triton.BACKEND, eager.BACKEND, reference.BACKEND):
    BACKENDS[_backend.name] = _backend
