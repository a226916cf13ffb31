"""Around one forward pass of the diffusion model: what its attention calls need to know travels in its options."""

from __future__ import annotations

import torch

from ..trace.reasons import Reason
from .adapters import adapter_for, class_of
from .malloc_graph import outside_malloc_graph
from .override import attention_override
from .session import OVERRIDE, VIDEO, options_of, video_pass, with_options
from .state import FORWARD, RUN, Forward, Patch


@torch.compiler.disable  # as in the override: what is read from transformer_options here differs between passes
def begin_forward(patch: Patch, diffusion_model: object, args: list, kwargs: dict) -> tuple[Forward | None, list, dict]:
    """The arguments of a forward pass, with our state and override in its transformer_options."""
    options = options_of(args, kwargs)
    forward = None if FORWARD in options else _forward(patch, diffusion_model, args, kwargs, options)
    if forward is None:
        return None, args, kwargs
    forward.run.blocks.tell(forward.video.sequence.blocks)
    return forward, *with_options(args, kwargs, {VIDEO: forward.video, FORWARD: forward, OVERRIDE: attention_override})


def _forward(patch: Patch, diffusion_model: object, args: list, kwargs: dict, options: dict) -> Forward | None:
    """None where this pass has to run as if MoC were not there."""
    trace, run, adapter = patch.trace, options.get(RUN), adapter_for(diffusion_model)
    if adapter is None or run is None:
        what = f"model {class_of(diffusion_model)}" if adapter is None else "sampler"
        trace.ran_dense(Reason.MODEL)
        trace.note(f"MoC does not know this {what}, which ran unchanged")
        return None
    try:
        video = video_pass(diffusion_model, args, kwargs)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a host that hands over something else
        trace.ran_dense(run.failed(error))
        return None
    sequence = video.sequence
    run.forwards += 1
    trace.blocks = len(sequence.blocks)
    if any(start % sequence.joined for start in run.starts):
        trace.note(f"this model joins {sequence.joined} latent frames: a cut between them moves behind them")
    sigma = float(options["sigmas"].detach().reshape(-1)[0])
    if run.forwards == 1 and video.frame_ids is not None:
        run.warn(video.layout(sequence.shortest))
    run.reuse.begin(sigma, run.share(sigma))
    reason = None
    if sequence.grid[0] == 1:
        reason = Reason.ONE_FRAME
    elif not run.active[0] <= sigma <= run.active[1]:
        reason = Reason.SCHEDULE
    elif video.frame_ids is None and len(run.starts) > 1:
        reason = Reason.LENGTH
    return Forward(
        run,
        video,
        previous=options.get(OVERRIDE),
        sigma=sigma,
        step=run.step(sigma),
        reason=reason,
        recording=not torch.is_grad_enabled() or run.forwards == 1,  # training: its steps do not add up to a video
    )


@torch.compiler.disable
def end_forward(forward: Forward | None) -> None:
    if forward is not None and forward.recording:
        with outside_malloc_graph():
            forward.run.pass_ended(forward.step)
        forward.recording = False
