"""Around one forward pass of the diffusion model: what its attention calls need to know travels in its options."""

from __future__ import annotations

import torch

from ..trace.reasons import Reason
from .adapters import adapter_for, class_of
from .malloc_graph import unrecorded
from .override import attention_override
from .state import FORWARD, RUN, Forward, Patch

OVERRIDE = "optimized_attention_override"  # the host's slot
TIME = 2  # of a latent [B, C, T, H, W]


@torch.compiler.disable  # as in the override: what is read from transformer_options here differs between passes
def begin_forward(patch: Patch, diffusion_model: object, args: list, kwargs: dict) -> tuple[Forward | None, list, dict]:
    """The arguments of a forward pass, with our state and override in its transformer_options."""
    options = next((x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x), {})
    forward = None if FORWARD in options else _plan(patch, diffusion_model, args, kwargs, options)
    if forward is None:
        return None, args, kwargs
    forward.run.number_blocks(forward.plan.blocks)
    ours = {**options, FORWARD: forward, OVERRIDE: attention_override}
    args = [ours if x is options else x for x in args]
    return forward, args, {key: ours if x is options else x for key, x in kwargs.items()}


def _plan(patch: Patch, diffusion_model: object, args: list, kwargs: dict, options: dict) -> Forward | None:
    """None where this pass has to run as if MoC were not there."""
    trace, run, adapter = patch.trace, options.get(RUN), adapter_for(diffusion_model)
    if adapter is None or run is None:
        what = f"model {class_of(diffusion_model)}" if adapter is None else "sampler"
        trace.ran_dense(Reason.MODEL)
        trace.note(f"MoC does not know this {what}, which ran unchanged")
        return None
    try:
        plan = adapter.plan(diffusion_model, args, kwargs)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a host that hands over something else
        trace.ran_dense(run.failed(error))
        return None
    run.forwards += 1
    trace.blocks = len(plan.blocks)
    if any(start % plan.joined for start in run.starts):
        trace.note(f"this model joins {plan.joined} latent frames: a cut between them comes after them")
    sigma = float(options["sigmas"].detach().reshape(-1)[0])
    frame_ids = _absolute_frames(options.get("context_window"), run.frames)[:: plan.joined]
    if run.forwards == 1 and len(frame_ids) == plan.grid[0]:
        run.warn(plan.layout(plan.shortest, frame_ids))
    reason = None
    if plan.grid[0] == 1:
        reason = Reason.ONE_FRAME
    elif not run.active[0] <= sigma <= run.active[1]:
        reason = Reason.SCHEDULE
    elif len(frame_ids) != plan.grid[0] and len(run.starts) > 1:
        reason = Reason.LENGTH
    return Forward(
        run,
        plan,
        previous=options.get(OVERRIDE),
        sigma=sigma,
        step=run.step(sigma),
        frame_ids=frame_ids if len(frame_ids) == plan.grid[0] else None,
        reason=reason,
        recording=not torch.is_grad_enabled() or run.forwards == 1,  # training: its steps do not add up to a video
    )


def _absolute_frames(window: object, frames: int) -> tuple[int, ...]:
    """Latent frames of the whole video that stand in this pass."""
    if window is None or getattr(window, "dim", TIME) != TIME:  # of rows, columns: every frame is there
        return tuple(range(frames))
    anchor = getattr(window, "causal_anchor_index", -1)  # ComfyUI 0.30: one frame from before the window
    return (*([anchor] if anchor >= 0 else []), *getattr(window, "index_list", ()))


@torch.compiler.disable
def end_forward(forward: Forward | None) -> None:
    if forward is not None and forward.recording:
        with unrecorded():
            forward.run.pass_ended(forward.step)
        forward.recording = False
