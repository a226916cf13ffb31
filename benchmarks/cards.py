"""Kernels and tile sizes of cards that are not here, on the one that is: what they compute and, roughly, how fast."""

from __future__ import annotations

import argparse

from moc.backends.triton import configs

CARDS = {
    "small": "99 KB of shared memory: RTX 30, 40 and 50",
    "medium": "163 KB: A100",
    "large": "227 KB, without the kernels for Hopper: a Hopper or Blackwell with another Triton",
}


def add_argument(parser: argparse.ArgumentParser) -> None:
    about = "; ".join(f"{name}: {what}" for name, what in CARDS.items())
    parser.add_argument("--card", choices=CARDS, help=f"kernels and tile sizes as on another card. {about}")


def pretend(card: str | None) -> None:
    """For the rest of this process."""
    if card is not None:
        configs._kind = lambda index: card  # type: ignore[assignment]
        configs._no_gluon[0] = f"as on a {card} card"
