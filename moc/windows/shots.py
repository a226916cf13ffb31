"""Windows along the shots, in the order of the film."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int]  # latent frames [first, one behind the last)


def spans(starts: Sequence[int], stop: int) -> list[Span]:
    """starts: first latent frame of every shot; stop: one behind the film's last -> the shots' latent frames."""
    return list(zip(starts, (*starts[1:], stop)))


def cut(shot: Span, length: int, overlap: int) -> list[list[int]]:
    """A shot longer than a window -> windows of `length` frames; the last one is moved back to end with the shot."""
    first, stop = shot
    begins = [*range(first, stop - length, length - overlap), stop - length]
    return [list(range(begin, begin + length)) for begin in begins]


def by_shots(shots: Iterable[Span], length: int, overlap: int) -> list[list[int]]:
    """Whole shots, as many neighbours as fit into `length` latent frames; a longer shot has windows of its own."""
    windows: list[list[int]] = []
    room = 0
    for shot in shots:
        size = shot[1] - shot[0]
        if size > length:
            windows += cut(shot, length, overlap)
            room = 0
        elif size > room:
            windows.append(list(range(*shot)))
            room = length - size
        else:
            windows[-1] += range(*shot)
            room -= size
    return windows
