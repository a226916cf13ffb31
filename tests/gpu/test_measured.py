"""The clock of a GPU: calls are timed and nobody waits for them."""

from __future__ import annotations

import pytest
import torch

from moc.backends.cost_model import Work
from moc.backends.measured import CALLS, DENSE, ROUTED, DeviceClock, Kind, Stopwatch
from moc.config import RoutingConfig

pytestmark = pytest.mark.gpu


def test_a_call_is_timed_on_the_device_without_a_wait(this_card, noted):
    device, stopwatch = torch.device("cuda", torch.cuda.current_device()), Stopwatch(DeviceClock())
    kind = Kind("torch", (), "", (1, 1, 1, 1), torch.float16, Work(*[0.0] * 7), RoutingConfig(), "triton")
    x = torch.randn(4096, 4096, device=device, dtype=torch.float16)
    x @ x  # loads what a first product needs
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(CALLS):
            lap = stopwatch.begins(kind, device)
            lap.way(ROUTED, lambda: x @ x)
            lap.way(DENSE, lambda: [x @ x for _ in range(200)][-1])
        early = stopwatch.times(kind)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    dense, routed = stopwatch.times(kind)
    noted(dense_ms=dense, routed_ms=routed)
    assert early is None and 0 < routed < dense
