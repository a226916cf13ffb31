"""Lets the attention inside a transformer block know which block it runs in, which few models tell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import Module

from .adapters.base import Blocks

BLOCK = "moc_block"  # transformer_options -> (number of the running block, which of the modules with this number)


class BlockNumbers:
    """Of one run: `tell` before every pass, which several devices may begin at once, and `end` after the last."""

    def __init__(self) -> None:
        self._hooks: dict[Module, Callable[[], None]] = {}  # block -> takes its number away
        self._lock = threading.Lock()

    def tell(self, blocks: Blocks) -> None:
        with self._lock:
            for number, modules in enumerate(blocks):
                for place, block in enumerate(modules):
                    if block not in self._hooks:
                        hook = partial(_number, (number, place))
                        self._hooks[block] = block.register_forward_pre_hook(hook, with_kwargs=True).remove

    def end(self) -> None:
        for remove in self._hooks.values():
            remove()
        self._hooks.clear()


def _number(number: tuple[int, int], block: Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    options = kwargs.get("transformer_options")
    if options is None:
        return None
    if torch.is_grad_enabled():
        # a block that autograd runs again must find its own number, not that of the last block
        return args, {**kwargs, "transformer_options": {**options, BLOCK: number}}
    options[BLOCK] = number
    return None
