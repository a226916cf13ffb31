"""Wan 2.1 and 2.2: video tokens in one run, text by cross-attention, references before or after the video."""

from __future__ import annotations

from .plan import Part, Plan

CLASSES = (
    "WanModel",  # t2v, i2v, first-last frame, TI2V 5B, Fun control, Phantom, in-context latents
    "VaceWanModel",
    "CameraWanModel",
    "HumoWanModel",
    "WanModel_S2V",
    "AnimateWanModel",
)
REFERENCE_LAST = ("HumoWanModel", "WanModel_S2V")  # the others prepend it, where they have a ref_conv


def plan(model, args: list, kwargs: dict) -> Plan:
    """[ref_conv reference] video [time_dim_concat] [context latents | reference, motion]"""
    x, _, context, _, concat = args[:5]
    patch = model.patch_size
    frames, height, width = (-(-size // p) for size, p in zip(x.shape[-3:], patch, strict=True))
    frame = height * width
    reference = kwargs.get("reference_latent")
    before: list[Part] = []
    after: list[Part] = []

    if concat is not None:  # same height and width as the video
        after += [("reference", frame)] * -(-concat.shape[2] // patch[0])
    if reference is not None and type(model).__name__ in REFERENCE_LAST:
        after += [("reference", _area(reference, patch))] * (reference.shape[2] // patch[0])
    elif reference is not None and model.ref_conv is not None:
        before.append(("reference", _area(reference, patch)))
    for latent in kwargs.get("context_latents") or ():
        rows, columns = -(-latent.shape[-2] // patch[1]), -(-latent.shape[-1] // patch[2])  # padded like the video
        after += [("reference", rows * columns)] * -(-latent.shape[-3] // patch[0])
    if kwargs.get("reference_motion") is not None:  # packed to a length of its own
        after.append(("reference", None))

    blocks = tuple(("double_block", i) for i in range(len(model.blocks)))
    return Plan((frames, height, width), blocks, tuple(before), tuple(after), cross=(context.shape[1],))


def _area(latent, patch: tuple[int, int, int]) -> int:
    """Tokens of one frame that is not padded: a convolution drops what does not fill a patch."""
    return (latent.shape[-2] // patch[1]) * (latent.shape[-1] // patch[2])
