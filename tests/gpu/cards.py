"""The code of cards that are not here, on a Hopper that is: what it computes and, roughly, how fast.

Triton makes a kernel for the other card up to PTX, with the tile sizes that it gets there; only the last step, to
machine code, is for the card that runs it. So these are the other card's instructions, in this one's hands.
"""

from __future__ import annotations

import argparse
import os

import torch

from moc.backends import health, library
from moc.backends.triton import arch, block_sizes
from moc.backends.triton.dataflow import HOPPER

CARDS = {
    "sm_80": "A100",
    "sm_86": "RTX 30",
    "sm_89": "RTX 40",
    "sm_90": "a Hopper whose Triton does not know the kernels for it",
    "sm_120": "RTX 50",
}


def add_argument(parser: argparse.ArgumentParser) -> None:
    about = ", ".join(f"{name}: {what}" for name, what in CARDS.items())
    parser.add_argument("--card", choices=CARDS, help=f"run what another card would run. {about}")


def pretend(card: str | None) -> None:
    """For the rest of this process."""
    if card is not None:
        number = card.removeprefix("sm_")
        os.environ["TRITON_OVERRIDE_ARCH"] = f"sm{number}"
        block_sizes.capability = arch.capability = lambda device: (int(number[:-1]), int(number[-1]))
        library.by_cudnn = lambda q: card == "sm_90"
        for variant in HOPPER:
            health.leave_out(torch.device("cuda", 0), variant, f"as on {card}")
