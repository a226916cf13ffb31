"""Wan 2.1 and 2.2: video tokens in one run, text by cross-attention, references before or after the video."""

from __future__ import annotations

from functools import partial

from .base import Adapter, Part, Sequence, conditioning, each, patches

SCAIL = ("SCAILWanModel", "SCAIL2WanModel")  # as many reference frames as they like
REFERENCE_LAST = ("HumoWanModel", "WanModel_S2V")  # the others prepend it, where they have a ref_conv


def sequence(model, args: list, kwargs: dict) -> Sequence:
    """[reference] video [time_dim_concat] [context latents | reference, motion | pose]"""
    x, _, context, _, concat = args[:5]
    patch = model.patch_size
    name = type(model).__name__
    grid = patches(x.shape, patch)
    frame = grid[1] * grid[2]
    reference = kwargs.get("reference_latent")
    before: list[Part] = []
    after: list[Part] = []

    if concat is not None:  # same height and width as the video
        after += [("reference", frame)] * -(-concat.shape[2] // patch[0])
    if reference is not None and name in SCAIL:
        before += _frames(reference, patch)
    elif reference is not None and name in REFERENCE_LAST:
        after += [("reference", _area(reference, patch))] * (reference.shape[2] // patch[0])
    elif reference is not None and model.ref_conv is not None:
        before.append(("reference", _area(reference, patch)))
    for latent in kwargs.get("context_latents") or ():
        after += _frames(latent, patch)
    if name in SCAIL and kwargs.get("pose_latents") is not None:
        after += _frames(kwargs["pose_latents"], patch)
    if kwargs.get("reference_motion") is not None:  # packed to a length of its own
        after.append(("reference", None))

    blocks = each(model.blocks)
    if name == "VaceWanModel":
        blocks = tuple((block, *_vace_block(model, i)) for i, block in enumerate(model.blocks))
    return Sequence(grid, blocks, tuple(before), tuple(after), cross=(context.shape[1],))


def vace_film(shape: tuple[int, ...], conds: dict) -> tuple[int, int]:
    """Reference images stand in front; their second half, what there is to generate, is empty."""
    controls = conditioning(conds, "vace_frames")
    if controls is None or controls[0].shape[2] != shape[2]:
        return 0, shape[2]
    halves = controls[0][0, 16:].transpose(0, 1).flatten(2)  # [T, C, H*W]
    empty = (halves == halves[..., :1]).all(-1).all(-1).tolist()
    first = 0 if all(empty) else empty.index(False)
    return first, shape[2] - first


def animate_film(shape: tuple[int, ...], conds: dict) -> tuple[int, int]:
    """One reference image stands in front: the model adds the pose from the second latent frame on."""
    return 1, shape[2] - 1


def _frames(latent, patch: tuple[int, int, int]) -> list[Part]:
    """One part for every frame of a latent that is padded like the video."""
    frames, height, width = patches(latent.shape, patch)
    return [("reference", height * width)] * frames


def _vace_block(model, number: int) -> tuple:
    place = model.vace_layers_mapping.get(number)
    return () if place is None else (model.vace_blocks[place],)


def _area(latent, patch: tuple[int, int, int]) -> int:
    """Tokens of one frame that is not padded: a convolution drops what does not fill a patch."""
    return (latent.shape[-2] // patch[1]) * (latent.shape[-1] // patch[2])


WAN = partial(Adapter, "Wan 2.1/2.2", time_rule="Wan", text="cross", sequence=sequence)
ADAPTERS = (
    WAN(
        (
            "WanModel",  # t2v, i2v, first-last frame, TI2V 5B, Fun control, Phantom, in-context latents
            "CameraWanModel",
            "HumoWanModel",
            "WanModel_S2V",
            "SCAILWanModel",
            "SCAIL2WanModel",
            "WanDancerModel",
            "CausalWanModel",  # with ordinary samplers; its own one runs the blocks without any wrapper
        ),
        covers="in all its variants",
    ),
    WAN(("VaceWanModel",), film=vace_film),
    WAN(("AnimateWanModel",), film=animate_film),
)
