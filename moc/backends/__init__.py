"""Ways to compute the same attention. One file each, one line here, and what it allows (`allowed.py`) in the file.

A backend has `attend(q, k, v, table, routing, *, scale, training, record)` on sorted [B, H, N, D] tensors.
"""

from __future__ import annotations

from . import eager, reference, triton

BACKENDS = {"eager": eager.attend, "reference": reference.attend, "triton": triton.attend}
