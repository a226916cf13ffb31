"""Every window also reads keys and values of other windows' frames, those of this step where they are done already, of
the last step elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from ...chunks.layout import TokenLayout
from ...errors import MoCError
from ...shots.cuts import shot_of
from ...trace.bank_reads import BankAxes, BankCounts
from ...trace.cells import Line
from ...windows.attend import OwnOf, attend, dense, routed
from ...windows.bank import STORAGE, alike
from ...windows.memory import kept_tokens
from ...windows.packing import packed_bytes
from ...windows.store import Place
from ...windows.turn import Rotation, turn
from ..adapters import adapter_for
from ..block_numbers import BLOCK
from ..host_call import HostCall, override
from ..malloc_graph import outside_malloc_graph
from ..session import OVERRIDE, VIDEO, VideoPass, options_of, video_pass, with_options
from ..state import FORWARD, READER, Forward
from . import rope
from .bank import BANK, Bank

MASKED = "the model passed an attention mask"
UNKNOWN = "the tokens are not those of a window's frames"
GRADIENTS = "gradients are wanted"


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
        bank, store, outs = self.bank, self.bank.stored(q.device), []
        bank.read += 1
        counts = self._counts(options, layout, frames, q)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        for i, prompt in enumerate(self.prompts):
            place, pieces = self._place(options, prompt), []
            for rows, some in self._who_reads(layout, frames[i]):
                groups = alike(some, bank.weights)
                parts = [(weight, partial(store.get, place, kept, like=q)) for weight, kept in groups]
                watch = None
                if counts is not None:
                    watch = counts.watch(i, rows, [store.tokens(place, kept) for _, kept in groups])
                mine = q[i : i + 1, :, rows]
                out, share = attend(mine, own(i, rows), parts, scale, watch)
                bank.share = bank.share + share.mean() * (mine.shape[-2] / q.shape[-2] / len(q))
                pieces.append(out)
            outs.append(torch.cat(pieces, -2) if len(pieces) > 1 else pieces[0])
        if counts is not None:
            forward: Forward = options[FORWARD]
            forward.run.patch.trace.read_bank(forward.step, options[BLOCK][0], counts)
        return torch.cat(outs) if len(outs) > 1 else outs[0]

    def _counts(self, options: dict, layout: TokenLayout, frames: list[set[int]], q: Tensor) -> BankCounts | None:
        """None where no trace wants to know."""
        forward: Forward | None = options.get(FORWARD)
        if forward is None or not forward.recording or forward.run.patch.trace.keep == "off":
            return None
        starts = forward.run.starts if len(forward.run.starts) > 1 else self.bank.starts
        rows, columns = (
            tuple(
                Line("memory", -1, frame, name=name)
                if (name := self.bank.names.get(frame))
                else Line("video", shot_of(frame, starts), frame)
                for frame in some
            )
            for some in (layout.frames, sorted(set().union(*frames)))
        )
        return BankCounts(BankAxes(rows, columns), layout, len(rows) - self.own, q.shape[0], q.shape[1], q.device)

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
        if self.bank.store is None:
            self._foresee(layout, k)
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

    def _foresee(self, layout: TokenLayout, k: Tensor) -> None:
        """What all kept frames will take, in all blocks and for all prompts."""
        bank, grid = self.bank, layout.grid[1:]
        masks = bank.masks.values()
        tokens = sum(len(kept_tokens(mask, grid)) for mask in masks)
        tokens += (len(bank.weights) - len(masks)) * layout.frame_tokens
        blocks = len(bank.settings.blocks or self.video.sequence.blocks)
        size = packed_bytes(tokens, k.shape[1], k.shape[-1], STORAGE[bank.settings.storage], k.element_size())
        bank.foresee(2 * size * blocks * bank.prompts, k.device)

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
