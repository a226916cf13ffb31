"""One sampling run and its forward passes, as everything that MoC puts around them needs to know them.

Whichever of our wrappers comes by first makes the session of a run, and the view of a pass; they travel in
`transformer_options`, where the others find them. So no model is asked twice, and the order of the nodes does not
matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import ReferenceType, ref

from torch import Tensor

from ..chunks.layout import TokenLayout
from ..shots.cuts import Shots
from .adapters import Adapter, Sequence, adapter_for, class_of
from .malloc_graph import outside_malloc_graph
from .text_padding import Unpadded, unpad

SESSION = "moc_session"  # transformer_options -> Session
VIDEO = "moc_video"  # transformer_options -> VideoPass
OVERRIDE = "optimized_attention_override"  # the host's slot
TIME = 2  # axis of a latent [B, C, T, H, W]
Starts = tuple[tuple[int, ...], tuple[str, ...]]  # first latent frame of every shot, what had to be moved for it


@dataclass(eq=False)
class Session:
    """One sampling run, from the first step of a sampler to its last.

    adapter      of the model, None where there is none
    shape        of the latent, of the video's where there are several
    conds        the prompts, as the sampler got them
    first, stop  latent frames [first, stop) are the film; before it stand references
    cut_texts    some text attention was cut up by shots
    """

    adapter: Adapter | None
    shape: tuple[int, ...]
    conds: dict
    first: int
    stop: int
    cut_texts: bool = False
    _starts: dict[Shots, Starts] = field(default_factory=dict)

    def prompts(self, guider) -> int:
        """How many the guider samples with; ComfyUI leaves the negative one out where it would count nothing."""
        left_out = "negative" if getattr(guider, "cfg", None) == 1.0 else None
        return sum(len(conds) for name, conds in self.conds.items() if name != left_out and conds is not None)

    @property
    def has_film(self) -> bool:
        return self.adapter is not None and len(self.shape) == 5

    def starts(self, shots: Shots) -> Starts:
        """In latent frames of the sampler's latent. Raises MoCError where the shots do not fit into the film."""
        if self.adapter is None:
            return (0,), ()
        if shots not in self._starts:
            starts, notes = self.adapter.starts(shots, self.stop - self.first)
            self._starts[shots] = (0, *(self.first + start for start in starts[1:])), notes
        return self._starts[shots]


@dataclass(eq=False)
class VideoPass:
    """One forward pass of the diffusion model.

    sequence   what its video self-attention sees
    frame_ids  absolute latent frame of every frame of tokens; None where nobody says which frames these are
    """

    sequence: Sequence
    frame_ids: tuple[int, ...] | None
    _unpadded: tuple[ReferenceType[Tensor], Unpadded | None] | None = None  # of the last mask: blocks pass the same one

    def layout(self, length: int) -> TokenLayout | None:
        """Of a self-attention call of `length` tokens; None where it is not the video's."""
        return self.sequence.layout(length, self.frame_ids)

    def without_padding(self, mask: Tensor, layout: TokenLayout) -> Unpadded | None:
        """What a mask leaves of the sequence; None where it does more than hide padding."""
        if self._unpadded is None or self._unpadded[0]() is not mask:
            with outside_malloc_graph():
                self._unpadded = ref(mask), unpad(mask, layout)
        return self._unpadded[1]


def session_of(guider, noise: Tensor, kwargs: dict) -> Session:
    """Of the run that an OUTER_SAMPLE wrapper stands around. The guider's options are gone after the run."""
    options = guider.model_options.setdefault("transformer_options", {})
    shape = tuple((kwargs.get("latent_shapes") or [noise.shape])[0])
    held: Session | None = options.get(SESSION)
    if held is None or held.shape != shape or held.conds is not guider.conds:  # that of a run around this one
        options[SESSION] = _session(adapter_for(guider.model_patcher.model.diffusion_model), shape, guider.conds)
    return options[SESSION]


def _session(adapter: Adapter | None, shape: tuple[int, ...], conds: dict) -> Session:
    first, frames = 0, shape[TIME] if len(shape) == 5 else 1
    if adapter is not None and frames > 1:
        first, frames = adapter.film(shape, conds)
    return Session(adapter, shape, conds, first, first + frames)


def options_of(args, kwargs: dict) -> dict:
    """The transformer_options of a forward pass, wherever a model takes them."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x), {})


def with_options(args, kwargs: dict, ours: dict) -> tuple[list, dict]:
    """The arguments of a forward pass with `ours` in a copy of its transformer_options."""
    options = options_of(args, kwargs)
    more = {**options, **ours}
    return [more if x is options else x for x in args], {k: more if x is options else x for k, x in kwargs.items()}


def video_pass(diffusion_model: object, args: list, kwargs: dict) -> VideoPass:
    """Of the pass with these arguments. Whoever asks puts it into the options as VIDEO, for the next one.

    Raises AttributeError, LookupError, TypeError or ValueError where a host hands over something else than it used to.
    """
    options = options_of(args, kwargs)
    if VIDEO in options:
        return options[VIDEO]
    adapter = adapter_for(diffusion_model)
    if adapter is None:
        raise LookupError(f"no adapter for {class_of(diffusion_model)}")
    sequence = adapter.sequence(diffusion_model, args, kwargs)
    frame_ids = _absolute_frames(options.get("context_window"), options[SESSION].stop)[:: sequence.joined]
    return VideoPass(sequence, frame_ids if len(frame_ids) == sequence.grid[0] else None)


def _absolute_frames(window: object, frames: int) -> tuple[int, ...]:
    """Latent frames of the whole video that stand in this pass."""
    if window is None or getattr(window, "dim", TIME) != TIME:  # of rows, columns: every frame is there
        return tuple(range(frames))
    anchor = getattr(window, "causal_anchor_index", -1)  # ComfyUI 0.30: one frame from before the window
    return (*([anchor] if anchor >= 0 else []), *getattr(window, "index_list", ()))
