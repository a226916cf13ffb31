"""A cut given in frames of the film, and the latent frame it falls on, where that is not a matter of one number."""

from __future__ import annotations

from dataclasses import replace

import comfyui_version
import pytest
import tiny
import torch
from comfy.latent_formats import Wan21
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.shots.cuts import Shots
from packaging.version import Version
from spies import routed

NEWER = Version(comfyui_version.__version__) >= Version("0.30.0")
newer = pytest.mark.skipif(not NEWER, reason="not in this ComfyUI")


def shots_of(name: str, cuts: tuple[int, ...], variant=None, **options):
    """(shot of every frame of tokens, notes)"""
    patched, trace = routed(tiny.load(name), shots=Shots(cuts=cuts))
    tiny.sample(patched, variant or tiny.variant_of(name), steps=1, **options)
    return trace.records[0].axes.shots, trace.notes


@pytest.mark.parametrize("cut, start", [(1, 1), (5, 2), (13, 4), (17, 5), (18, 6), (22, 7)])
@newer
def test_minimax_starts_anew_every_17_frames(cut, start):
    shots, notes = shots_of("MiniMax H3 t2v", (cut,), shape=(1, 24, 8, 4, 4))
    assert shots.index(1) == start and not notes


@newer
def test_minimax_moves_a_cut_to_the_nearest_border():
    shots, notes = shots_of("MiniMax H3 t2v", (10, 20), shape=(1, 24, 8, 4, 4))
    assert (shots.index(1), shots.index(2)) == (3, 6)
    assert [note.split(",")[0] for note in notes] == [
        "cut 1 moved from frame 10 to 9",
        "cut 2 moved from frame 20 to 18",
    ]


@newer
@pytest.mark.parametrize("cuts, message", [((26,), "only 26 frames"), ((4, 6), "same latent frame")])
def test_minimax_refuses_a_cut_that_is_none(cuts, message):
    with pytest.raises(MoCError, match=message):
        shots_of("MiniMax H3 t2v", cuts, shape=(1, 24, 8, 4, 4))


@newer
def test_a_cut_inside_joined_frames_comes_after_them():
    assert shots_of("CogVideoX 1.5", (5,)) == ((0, 1, 1), [])  # latent frame 2
    shots, notes = shots_of("CogVideoX 1.5", (1,))  # latent frame 1
    assert shots == (0, 1, 1) and "joins 2 latent frames" in notes[0]


def test_guide_frames_are_not_part_of_the_film():
    shots, _ = shots_of("LTX-Video guides", (17,))
    assert shots == (0, 0, 0, 1, 1)
    with pytest.raises(MoCError, match="only 33 frames"):
        shots_of("LTX-Video guides", (41,))


def test_animates_reference_comes_before_the_film():
    assert shots_of("animate", (9,))[0] == (0, 0, 0, 0, 1)
    with pytest.raises(MoCError, match="only 13 frames"):
        shots_of("animate", (13,))


@pytest.mark.parametrize("references", [0, 1, 2])
def test_vaces_references_come_before_the_film(references):
    variant = tiny.variant_of("vace")
    conds = variant.conds((1, *variant.latent))
    conds["vace_frames"][0][:, 16:, :references] = Wan21().process_out(torch.zeros(1, 16, references, 8, 8))
    variant = replace(variant, conds=lambda shape: conds)
    patched, trace = routed(tiny.load("vace"), shots=Shots(cuts=(5,)))
    tiny.sample(patched, variant, steps=1)
    assert trace.records[0].axes.shots == tuple(int(i >= 2 + references) for i in range(5))
    assert trace.first == references
