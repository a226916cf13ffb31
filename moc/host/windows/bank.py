"""The bank of one sampling run: keys and values of frames that windows read beside their own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import comfy.model_management
import torch
from torch import Tensor

from ...errors import MoCError
from ...windows.bank import STORAGE, BankSettings
from ...windows.store import Store
from ..block_numbers import BlockNumbers

BANK = "moc_windows_bank"  # transformer_options -> Bank
GB = 1e9

log = logging.getLogger("mixture_of_contexts")


@dataclass(eq=False)
class Bank:
    """Made when a sampler begins, dropped when it ends, is cancelled or fails.

    weights  latent frames that are kept -> how many frames each stands for
    away     latent frames that a stored key is moved into the past: a window's length, so that what is kept stands
             before every window, whichever reads it
    start    highest noise level at which the bank is read
    node     whose bank it is, in the log
    filling  passes are kept, and see only themselves
    masks    kept frames of which not all is kept -> [h, w], 1 where it is
    hidden   latent frames of the film -> kept frames that they do not read
    prompts  that the run samples with
    starts   first latent frame of every shot
    names    kept frames that are no part of the film -> the memory that they are of
    """

    settings: BankSettings
    weights: dict[int, float]
    away: int
    start: float
    node: str = "MoC Windows"
    filling: bool = False
    masks: dict[int, Tensor] = field(default_factory=dict)
    hidden: dict[int, frozenset[int]] = field(default_factory=dict)
    prompts: int = 1
    starts: tuple[int, ...] = (0,)
    names: dict[int, str] = field(default_factory=dict)
    read: int = 0  # calls
    share: Tensor | float = 0.0  # sum over them of how much of what they saw lay in the bank
    unread: Counter[str] = field(default_factory=Counter)  # why -> calls that saw their own window only
    store: Store | None = None
    blocks: BlockNumbers = field(default_factory=BlockNumbers)

    def foresee(self, size: int, device: torch.device) -> None:
        """Before anything is kept: size, in bytes, is what the bank will hold. Raises MoCError if there is no room."""
        on_device = min(size, self._budget(device)) if device.type != "cpu" else 0
        main, free = size - on_device, comfy.model_management.get_free_memory(torch.device("cpu"))
        log.info(
            "%s: the bank will hold %d frames, %.2f GB on the GPU and %.2f GB in main memory",
            self.node, len(self.weights), on_device / GB, main / GB,
        )  # fmt: skip
        if main > free:
            raise MoCError(
                f"the bank of {self.node} needs {main / GB:.1f} GB of main memory beside {on_device / GB:.1f} GB of "
                f"the graphics card's, and {free / GB:.1f} GB are free: keep fewer frames or shots, store them in 8 or "
                "4 bit, or let fewer blocks read them."
            )

    def _budget(self, device: torch.device) -> float:
        return self.settings.budget * GB or comfy.model_management.get_free_memory(device) / 2

    def stored(self, device: torch.device) -> Store:
        """Made with the first key: what is free then is what the model and a window have left."""
        if self.store is None:
            self.store = Store(STORAGE[self.settings.storage], self._budget(device))
        return self.store

    @contextmanager
    def held(self, options: dict) -> Iterator[None]:
        """The bank of a run, to its end, cancelled too. What one around it was to keep is kept here."""
        around: Bank | None = options.get(BANK)
        if around is not None:
            self.weights |= around.weights
            self.masks |= around.masks
            self.hidden |= around.hidden
            self.names |= around.names
        options[BANK] = self
        try:
            yield
        finally:
            self.end()
            options.pop(BANK)
            if around is not None:
                options[BANK] = around

    def end(self) -> None:
        """Everything goes; the log says what there was."""
        self.blocks.end()
        if self.store is not None:
            log.info(
                "%s: the bank held %d frames, %.2f GB on the GPU and %.2f GB in main memory; %d calls read it, and "
                "took %.0f %% of what they saw from it",
                self.node, len(self.weights), self.store.on_device / GB, self.store.elsewhere / GB, self.read,
                100 * float(self.share) / max(self.read, 1),
            )  # fmt: skip
            self.store.clear()
        for why, calls in self.unread.items():
            log.warning("%s: %d calls saw their own window alone and not the bank: %s", self.node, calls, why)
