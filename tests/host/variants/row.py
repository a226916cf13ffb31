"""What a row of the table says, and what its conditioning is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

NEWER = "0.30.0"  # the ComfyUI version of the tests that has what 0.3.75 does not
Spans = tuple[tuple[str, int], ...]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Variant:
    """One way to use a video model.

    model     as people call it
    name      of this use of it
    cls       diffusion model class, in `module` of the host
    config    its arguments
    sized     the host's loader knows the sizes of the real models only, so that it must be told these
    conds     what the conditioning nodes put into the conditioning, given the latent's shape
    text      tokens and channels of the text
    latent    channels, frames, height, width
    audio     shape of an audio latent beside it
    grid      video tokens
    before, after  other tokens in the video's sequence, in order
    padding   text tokens among these that a mask hides, so that `before` and `after` leave them out
    mask      noise mask of the latent
    changed   frame of tokens that holds latent frame 2
    blocks    the block of every video self-attention call of one forward pass
    alone     ComfyUI itself fails at this with more than one sample
    since     first ComfyUI version of the tests that has it, or lets anyone see its attention
    windows   first ComfyUI version of the tests whose context windows this works in, "" for none
    note      what a reader of the table should know
    """

    model: str
    name: str
    cls: str
    module: str
    config: dict
    sized: bool = False
    conds: Callable[[tuple], dict] = lambda shape: {}
    text: tuple[int, int] = (7, 64)
    latent: tuple[int, int, int, int] = (16, 5, 8, 8)
    audio: tuple[int, ...] | None = None
    grid: tuple[int, int, int] = (5, 4, 4)
    before: Spans = ()
    after: Spans = ()
    padding: int = 0
    mask: Callable[[tuple], Tensor] | None = None
    changed: int = 2
    blocks: tuple[int, ...] = (0, 1, 2)
    alone: bool = False
    since: str = "0.3.75"
    windows: str = "0.3.75"
    note: str = ""

    def __str__(self) -> str:
        return f"{self.model} {self.name}"

    @property
    def length(self) -> int:
        """Tokens in the video's sequence, padding included."""
        t, h, w = self.grid
        return t * h * w + sum(count for _, count in self.before + self.after) + self.padding


def joined(*parts: Callable[[tuple], dict]) -> Callable[[tuple], dict]:
    return lambda shape: {key: value for part in parts for key, value in part(shape).items()}


def image(channels: int, seed: int = 5) -> Callable[[tuple], dict]:
    return lambda shape: {"concat_latent_image": random(1, channels, *shape[2:], seed=seed)}


def vision(tokens: int, channels: int) -> Callable[[tuple], dict]:
    states = random(1, tokens, channels, seed=6)
    output = SimpleNamespace(penultimate_hidden_states=states, last_hidden_state=states)
    return lambda shape: {"clip_vision_output": output}
