"""The bank of one sampling run: every window also reads keys and values of other windows' frames, those of this step
where they are done already, of the last step elsewhere."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

import comfy.model_management
import torch
from torch import Tensor

from ...chunks.layout import TokenLayout
from ...errors import MoCError
from ...windows.attend import OwnOf, attend, dense, routed
from ...windows.bank import STORAGE, BankSettings, alike
from ...windows.memory import kept_tokens
from ...windows.store import Place, Store
from ...windows.turn import Rotation, turn
from ..adapters import adapter_for
from ..block_numbers import BLOCK, BlockNumbers
from ..host_call import HostCall, override
from ..malloc_graph import outside_malloc_graph
from ..session import OVERRIDE, VIDEO, VideoPass, options_of, video_pass, with_options
from ..state import FORWARD, READER, Forward
from . import rope

BANK = "moc_windows_bank"  # transformer_options -> Bank
GB = 1e9
MASKED = "the model passed an attention mask"
UNKNOWN = "the tokens are not those of a window's frames"
GRADIENTS = "gradients are wanted"

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
    """

    settings: BankSettings
    weights: dict[int, float]
    away: int
    start: float
    node: str = "MoC Windows"
    filling: bool = False
    masks: dict[int, Tensor] = field(default_factory=dict)
    hidden: dict[int, frozenset[int]] = field(default_factory=dict)
    read: int = 0  # calls
    share: Tensor | float = 0.0  # sum over them of how much of what they saw lay in the bank
    unread: Counter[str] = field(default_factory=Counter)  # why -> calls that saw their own window only
    store: Store | None = None
    blocks: BlockNumbers = field(default_factory=BlockNumbers)

    def stored(self, device: torch.device) -> Store:
        """Made with the first key: what is free then is what the model and a window have left."""
        if self.store is None:
            budget = self.settings.budget * GB or comfy.model_management.get_free_memory(device) / 2
            self.store = Store(STORAGE[self.settings.storage], budget)
        return self.store

    @contextmanager
    def held(self, options: dict) -> Iterator[None]:
        """The bank of a run, to its end, cancelled too. What one around it was to keep is kept here."""
        around: Bank | None = options.get(BANK)
        if around is not None:
            self.weights |= around.weights
            self.masks |= around.masks
            self.hidden |= around.hidden
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


@dataclass(eq=False)
class Reader:
    """One forward pass, which is one window.

    own        how many frames of tokens, the last ones, are the window's
    model      whose keys these are
    prompts    what tells the prompts apart that are batched in this pass
    previous   attention override that was there before ours
    reads      the bank is read at this noise level
    """

    bank: Bank
    video: VideoPass
    own: int
    model: int
    prompts: list[Hashable]
    rotation: Rotation
    previous: Callable | None
    reads: bool

    def serves(self, options: dict) -> bool:
        """Whether the running block reads the bank, and is kept in it."""
        block = options.get(BLOCK)
        return block is not None and block[0] in (self.bank.settings.blocks or (block[0],))

    def frames(self, options: dict) -> list[set[int]]:
        """Which frames the running block finds in the bank, for every prompt; none where there is nothing to read."""
        if not self.reads or self.bank.store is None:
            return []
        there = [self.bank.store.frames(self._place(options, prompt)) for prompt in self.prompts]
        found = [(frames & self.bank.weights.keys()) - set(self.video.frame_ids or ()) for frames in there]
        return found if any(found) else []

    def attend(
        self, options: dict, layout: TokenLayout, frames: list[set[int]], q: Tensor, own: OwnOf, scale: float | None
    ) -> Tensor:
        """q [B, H, N, D] of this layout, frames to read for every prompt, what rows see of their own window ->
        [B, H, N, D]."""
        bank, outs = self.bank, []
        bank.read += 1
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        for i, prompt in enumerate(self.prompts):
            get, pieces = partial(bank.stored(q.device).get, self._place(options, prompt), like=q), []
            for rows, some in self._who_reads(layout, frames[i]):
                parts = [(weight, partial(get, kept)) for weight, kept in alike(some, bank.weights)]
                mine = q[i : i + 1, :, rows]
                out, share = attend(mine, own(i, rows), parts, scale)
                bank.share = bank.share + share * (mine.shape[-2] / q.shape[-2] / len(q))
                pieces.append(out)
            outs.append(torch.cat(pieces, -2) if len(pieces) > 1 else pieces[0])
        return torch.cat(outs) if len(outs) > 1 else outs[0]

    def _who_reads(self, layout: TokenLayout, kept: set[int]) -> list[tuple[slice, set[int]]]:
        """(queries, kept frames that they read), in order; what is not the film's reads all."""
        hidden, begin = self.bank.hidden, layout.video_start
        if not hidden:
            return [(slice(None), kept)]
        found = [(slice(0, begin), kept)]
        for unread, frames in groupby(layout.frames, lambda frame: hidden.get(frame, frozenset())):
            stop = begin + len(list(frames)) * layout.frame_tokens
            found.append((slice(begin, stop), kept - unread))
            begin = stop
        found.append((slice(begin, layout.length), kept))
        return [(tokens, some) for tokens, some in found if tokens.start < tokens.stop]

    def beside_routed(self, call: HostCall, layout: TokenLayout, q: Tensor, out: Tensor, lse: Tensor) -> Tensor:
        """q, out [B, H, N, D] and lse [B, H, N] of a routed call over the window's own keys, of this layout: with what
        it reads of the bank [B, H, N, D]. Keeps the window's keys and values."""
        if frames := self.frames(call.options):
            out = self.attend(call.options, layout, frames, q, routed(out, lse), call.scale)
        self.keep(call.options, call.k, call.v)
        return out

    def layout_of(self, call: HostCall) -> TokenLayout | None:
        """Of a call that reads the bank and is kept in it; None for others. Where its tokens are not known to be the
        window's, the log will say so."""
        if not self.serves(call.options):
            return None
        known = call.q.shape == call.k.shape and call.q.shape[0] == len(self.prompts)
        layout = self.video.layout(call.k.shape[-2]) if known else None
        if layout is None:
            self.bank.unread[UNKNOWN] += 1
        return layout

    def keep(self, options: dict, k: Tensor, v: Tensor) -> None:
        """k, v [B, H, N, D] of this window. The anchor frame in front of it belongs to another one."""
        layout, frames = self.video.layout(k.shape[-2]), self.video.frame_ids
        if layout is None or frames is None:
            return
        store, size, anchor = self.bank.stored(k.device), layout.frame_tokens, len(frames) - self.own
        self.rotation = self.rotation.to(k.device)
        for number, frame in enumerate(frames):
            if number < anchor or frame not in self.bank.weights:
                continue
            begin = layout.video_start + number * size
            some_k, some_v = (x[..., begin : begin + size, :] for x in (k, v))
            if (mask := self.bank.masks.get(frame)) is not None:
                some = kept_tokens(mask, layout.grid[1:]).to(k.device)
                some_k, some_v = some_k[..., some, :], some_v[..., some, :]
            turned = turn(some_k, self.rotation)
            for i, prompt in enumerate(self.prompts):
                store.put(self._place(options, prompt), frame, turned[i], some_v[i])

    def _place(self, options: dict, prompt: Hashable) -> Place:
        return (self.model, options[BLOCK], prompt)


def around_forward(executor, *args, **kwargs):
    args, kwargs = _begin(executor.class_obj, args, kwargs)
    return executor(*args, **kwargs)


def around_apply(executor, *args, **kwargs):
    """For models that run no wrappers around their own forward pass."""
    model = executor.class_obj.diffusion_model
    adapter = adapter_for(model)
    if adapter is not None and adapter.outer:
        args, kwargs = _begin(model, args, kwargs)
    return executor(*args, **kwargs)


@torch.compiler.disable
def _begin(model: object, args, kwargs: dict) -> tuple[list, dict]:
    """The arguments of a forward pass, with our reader and override in its transformer_options."""
    options = options_of(args, kwargs)
    bank: Bank | None = options.get(BANK)
    if bank is None or READER in options:
        return args, kwargs
    with outside_malloc_graph():
        reader = _reader(bank, model, args, kwargs, options)
    if reader is None:
        return args, kwargs
    bank.blocks.tell(reader.video.sequence.blocks)
    ours = {VIDEO: reader.video, READER: reader}
    forward: Forward | None = options.get(FORWARD)
    if forward is None:
        reader.previous, ours[OVERRIDE] = options.get(OVERRIDE), attention
    else:  # MoC Apply was here first: what it leaves dense comes to us, as it does where we were first
        reader.previous, forward.previous = forward.previous, attention
    return with_options(args, kwargs, ours)


def _reader(bank: Bank, model: object, args, kwargs: dict, options: dict) -> Reader | None:
    """None where this pass sees its own window only."""
    if torch.is_grad_enabled():
        bank.unread[GRADIENTS] += 1
        return None
    try:
        video = video_pass(model, list(args), kwargs)
        rotation = rope.rotation(model, list(args), kwargs, bank.away)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a host that hands over something else
        bank.unread[f"{UNKNOWN} ({type(error).__name__}: {error})"[:200]] += 1
        return None
    blocks = len(video.sequence.blocks)
    beyond = [block for block in bank.settings.blocks if block >= blocks]
    if beyond:
        raise MoCError(f"{bank.node} is told of block {beyond[0]}, but this model's blocks are 0 to {blocks - 1}.")
    if video.frame_ids is None or video.sequence.joined > 1:
        bank.unread[UNKNOWN] += 1
        return None
    sigma = float(options["sigmas"].detach().reshape(-1)[0])
    # a pass with blocks replaced, as guidance by skipped layers makes one, has keys of its own
    replaced = frozenset(str(key) for some in options.get("patches_replace", {}).values() for key in some)
    prompts: list[Hashable] = [
        (prompt, replaced) for prompt in options.get("uuids") or options.get("cond_or_uncond") or (0,)
    ]
    own = len(getattr(options.get("context_window"), "index_list", video.frame_ids))
    return Reader(bank, video, own, id(model), prompts, rotation, None, sigma <= bank.start and not bank.filling)


@override(READER)
def attention(reader: Reader, call: HostCall) -> Tensor:
    layout, unpadded = reader.layout_of(call), None
    if layout is None:
        return call.dense()
    if call.mask is not None:
        unpadded = reader.video.without_padding(call.mask, layout)
        if unpadded is None:
            reader.bank.unread[MASKED] += 1
            return call.dense()
        layout = unpadded.layout
    with outside_malloc_graph():
        frames, out = reader.frames(call.options), None
        if frames:
            seen = (call.q, call.k, call.v)
            q, k, v = seen if unpadded is None else (unpadded.take(x) for x in seen)
            scale = q.shape[-1] ** -0.5 if call.scale is None else call.scale
            out = reader.attend(call.options, layout, frames, q, dense(q, k, v, scale), scale)
            out = out if unpadded is None else unpadded.put(out, call.q.shape)
        reader.keep(call.options, call.k, call.v)
    return call.dense() if out is None else call.handed_back(out)
