"""Shots from a latent: where its frames change at once, without decoding them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MoCError
from .builtin import Change, keep_apart

THRESHOLD = 1.5
MIN_LENGTH = 2
QUIET = 0.06  # change between frames of a still picture, as a share of that between unrelated ones
AROUND = 3  # frames before and behind that say what change is usual


def find_cuts(latent: Tensor, threshold: float = 0.0, min_length: int = 0) -> tuple[list[Change], int]:
    """(where a new shot begins, latent frames). latent: [B, C, T, H, W], or images in a row [T, C, H, W].

    A batch of videos is judged by its first. threshold: how many times its surroundings' change a cut must change;
    min_length: latent frames of the shortest shot; 0 for either: our own.
    """
    frames = _frames(latent)
    threshold, min_length = threshold or THRESHOLD, min_length or MIN_LENGTH
    if threshold < 0 or min_length < 0:
        raise MoCError(f"threshold is {threshold} and min_length is {min_length}: use more, or 0 for the node's own.")
    count = len(frames)
    if count < 2:
        return [], count
    change = torch.cat([torch.zeros(1), torch.tensor([unlike(a, b) for a, b in zip(frames, frames[1:])])])
    changes = [
        Change(at, "cut", strength)
        for at in range(1, count)
        if (strength := float(change[at]) / (_usual(change, at) + QUIET)) >= threshold and not _passing(frames, at)
    ]
    return keep_apart(changes, count, min_length), count


def _frames(latent: Tensor) -> Tensor:
    """[T, C, H, W] float32 on the CPU, every channel without its mean and spread."""
    if latent.ndim == 5:
        frames = latent[0].movedim(1, 0) if len(latent) else latent.new_zeros(0, 1, 1, 1)
    elif latent.ndim == 4:
        frames = latent
    else:
        raise MoCError(f"the latent has the shape {tuple(latent.shape)}: connect the LATENT of a video or of images.")
    if 0 in frames.shape:
        raise MoCError("the latent is empty: connect one with at least one frame.")
    frames = frames.detach().float().cpu()
    if not frames.isfinite().all():
        bad = int((~frames.flatten(1).isfinite().all(1)).nonzero()[0])
        raise MoCError(f"latent frame {bad} holds values that are no numbers (NaN or infinite): look at what made it.")
    frames = frames - frames.mean((0, 2, 3), keepdim=True)
    return frames / frames.std((0, 2, 3), keepdim=True, unbiased=False).clamp(min=1e-6)


def unlike(first: Tensor, second: Tensor) -> float:
    """[C, H, W] twice -> 0 for the same picture, about 1 for unrelated ones: difference power over total power."""
    power = first.square().mean() + second.square().mean()
    return float((first - second).square().mean() / power.clamp(min=1e-6))


def _usual(change: Tensor, at: int) -> float:
    before, behind = change[max(at - AROUND, 1) : at], change[at + 1 : at + 1 + AROUND]
    return max((float(side.median()) for side in (before, behind) if len(side)), default=0.0)


def _passing(frames: Tensor, at: int) -> bool:
    """Whether the old picture is back one or two frames later, or the new one was there before: a flash, no cut."""
    now = unlike(frames[at - 1], frames[at])
    back = [unlike(frames[at - 1], frames[at + far]) for far in (1, 2) if at + far < len(frames)]
    there = [unlike(frames[at - 1 - far], frames[at]) for far in (1, 2) if at - 1 - far >= 0]
    return min([*back, *there], default=now) < 0.5 * now
