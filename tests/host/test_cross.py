"""A caption per shot is what each caption alone would be, in the frames of its shot and nowhere else."""

from __future__ import annotations

from functools import partial

import comfy.context_windows
import comfy.sample
import comfyui_version
import pytest
import tiny
import torch
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host import captions as cross
from mixture_of_contexts.moc.host.adapters import ADAPTERS, Sequence
from mixture_of_contexts.moc.host.captions import KEY, can_split, join_captions, read_by_shot
from mixture_of_contexts.moc.shots.cuts import Shots
from packaging.version import Version
from spies import OVERRIDE, apart, everything, routed
from tiny import random

HOST = Version(comfyui_version.__version__)
SHOTS = Shots(cuts=(2, 3), unit="latent")
LENGTHS = (7, 5, 9)
OF_FRAME = (0, 0, 1, 2, 2)  # shot of every latent frame
SPLIT = [v for v in tiny.VARIANTS if ADAPTERS[v.cls].text == "cross" and Version(v.since) <= HOST]


def caption(seed: int, tokens: int = 7, channels: int = 4096, **facts):
    return [[random(1, tokens, channels, seed=100 + seed), facts]]


def captions(lengths=LENGTHS, channels=4096, facts=None):
    return [caption(i, n, channels, **(facts or {})) for i, n in enumerate(lengths)]


@torch.inference_mode()
def sample(model, positive, *, variant=tiny.VARIANTS[0], shape=None, cfg=1.0, negative=None, steps=2):
    shape = tiny.shape_of(variant, shape)
    negative = negative or caption(9, 7, variant.text[1], **variant.conds(shape))
    mask = {} if variant.mask is None else {"noise_mask": variant.mask(shape)}
    return comfy.sample.sample(
        model,
        random(*shape, seed=1),
        steps,
        cfg,
        "euler",
        "simple",
        positive,
        negative,
        torch.zeros(shape),
        disable_pbar=True,
        seed=4,
        **mask,
    )


def by_hand(model, texts, of_token):
    """A clone whose cross-attention runs once per caption on all tokens; each token keeps what its own one gave."""
    model, net = model.clone(), model.model.diffusion_model

    def forward(cross, original, x, context, context_img_len=None, **kwargs):
        images = context[:, : context_img_len or 0]
        outs = []
        for text in texts:
            alone = net.text_embedding(text.to(x).expand(x.shape[0], -1, -1))
            length = {} if context_img_len is None else {"context_img_len": context_img_len}
            outs.append(original(x, torch.cat([images, alone], 1), **length, **kwargs))
        return torch.stack(outs)[of_token, :, torch.arange(x.shape[1])].transpose(0, 1)

    blocks = [f"blocks.{i}" for i in range(len(net.blocks))]
    blocks += [f"vace_blocks.{i}" for i in range(len(getattr(net, "vace_blocks", ())))]
    for name in blocks:
        cross = model.get_model_object(f"diffusion_model.{name}.cross_attn")
        model.add_object_patch(f"diffusion_model.{name}.cross_attn.forward", partial(forward, cross, cross.forward))
    return model


def of_tokens(of_frame=OF_FRAME, frame=16):
    return torch.tensor(of_frame).repeat_interleave(frame)


@pytest.mark.parametrize("name", ["t2v", "i2v", "ti2v 5B", "vace"])
def test_every_frame_reads_its_own_shots_caption_and_no_other(name):
    variant = tiny.variant_of(name)
    model, shape = tiny.load(name), tiny.shape_of(variant)
    texts = captions(facts=variant.conds(shape))
    frame = shape[-1] // 2 * (shape[-2] // 2)
    wanted = sample(by_hand(model, [t[0][0] for t in texts], of_tokens(frame=frame)), texts[0], variant=variant)
    got = sample(read_by_shot(model), join_captions(texts, SHOTS), variant=variant)
    assert apart(got, wanted) < 1e-5
    assert apart(got, sample(model, texts[0], variant=variant)) > 1e-3  # the captions matter


def test_the_same_caption_for_every_shot_is_that_caption():
    model, text = tiny.load(), caption(0)
    got = sample(read_by_shot(model), join_captions([text] * 3, SHOTS))
    assert apart(got, sample(model, text)) < 1e-5


def test_one_shots_caption_changes_only_its_own_frames_where_frames_do_not_see_each_other():
    """With one block and no self-attention left, a frame is what its own caption makes of it."""

    def blind(func, q, k, v, *args, **kwargs):
        return v.clone() if q.shape == k.shape else func(q, k, v, *args, **kwargs)

    model = tiny.load().clone()
    model.model_options["transformer_options"][OVERRIDE] = blind
    texts = captions()
    before = sample(read_by_shot(model), join_captions(texts, SHOTS))
    texts[1] = caption(5, 5)
    after = sample(read_by_shot(model), join_captions(texts, SHOTS))
    changed = (before - after).abs().amax((0, 1, 3, 4)) > 1e-6
    assert changed.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("negative", [7, sum(LENGTHS)], ids=["two passes", "as long as all captions"])
def test_the_negative_prompt_is_read_whole(negative):
    model, texts = tiny.load(), captions()
    other = caption(9, negative)
    positive = sample(read_by_shot(model), join_captions(texts, SHOTS))
    unguided = sample(model, other)
    guided = sample(read_by_shot(model), join_captions(texts, SHOTS), negative=other, cfg=3.0, steps=1)
    positive, unguided = (
        sample(read_by_shot(model), join_captions(texts, SHOTS), steps=1),
        sample(model, other, steps=1),
    )
    assert apart(guided, unguided + 3.0 * (positive - unguided)) < 1e-4


def test_captions_for_the_negative_prompt_too_and_a_batch():
    model = read_by_shot(tiny.load())
    positive, negative = (join_captions([caption(s + i) for i in range(3)], SHOTS) for s in (0, 20))
    shape = (2, 16, 5, 8, 8)
    both = sample(model, positive, negative=negative, cfg=3.0, shape=shape, steps=1)
    apart_ = [sample(model, text, shape=shape, steps=1) for text in (positive, negative)]
    assert apart(both, apart_[1] + 3.0 * (apart_[0] - apart_[1])) < 1e-4


@pytest.mark.parametrize("moc_last", [True, False], ids=["MoC after", "MoC before"])
def test_together_with_moc(moc_last):
    model, texts = tiny.load(), join_captions(captions(), SHOTS)
    wanted = sample(read_by_shot(model), texts)
    if moc_last:
        patched, trace = routed(read_by_shot(model), everything(), SHOTS)
    else:
        patched, trace = routed(model, everything(), SHOTS)
        patched = read_by_shot(patched)
    assert apart(sample(patched, texts), wanted) < 1e-5
    assert trace.routed and not trace.dense


def test_a_second_model_that_does_not_tell_captions_apart_is_refused_before_sampling():
    """Wan 2.2 samples with two models: one of them is easily left out."""
    patched, _ = routed(tiny.load(), everything(), SHOTS)
    with pytest.raises(MoCError, match="put this model through MoC Shot Conditioning as well"):
        sample(patched, join_captions(captions(), SHOTS))


def test_a_sequence_of_open_length_ends_the_search_for_a_length_of_the_text():
    sequence = Sequence(grid=(2, 2, 2), blocks=(), before=(("reference", None),))
    args = [None, None, random(1, 30, 8), None]
    cross._make_distinct(args, sequence)
    assert args[2].shape[1] == 30


def test_another_packs_attention_gets_every_piece():
    calls = []

    def other(func, q, k, v, *args, **kwargs):
        calls.append((q.shape[-2], k.shape[-2]))
        return func(q, k, v, *args, **kwargs)

    model = tiny.load().clone()
    model.model_options["transformer_options"][OVERRIDE] = other
    sample(read_by_shot(model), join_captions(captions(), SHOTS), steps=1)
    assert [c for c in calls if c[0] != c[1]] == [(32, 7), (16, 5), (32, 9)] * 3


def test_text_as_long_as_the_video_is_not_taken_for_it():
    model, texts = tiny.load(), captions((20, 30, 30))  # 80 tokens, as the video has
    wanted = sample(by_hand(model, [t[0][0] for t in texts], of_tokens()), texts[0])
    assert apart(sample(read_by_shot(model), join_captions(texts, SHOTS)), wanted) < 1e-5


def test_cuts_are_given_in_frames_of_the_film():
    model, texts = tiny.load(), captions()
    wanted = sample(read_by_shot(model), join_captions(texts, SHOTS))
    got = sample(read_by_shot(model), join_captions(texts, Shots(cuts=(5, 9))))
    assert torch.equal(got, wanted)


def test_references_read_all_captions():
    variant = tiny.variant_of("phantom")  # two frames behind the video
    model, shape = tiny.load("phantom"), tiny.shape_of(tiny.variant_of("phantom"))
    texts = captions(facts=variant.conds(shape))
    whole = torch.cat([t[0][0] for t in texts], 1)
    wanted = by_hand(model, [*(t[0][0] for t in texts), whole], of_tokens((*OF_FRAME, 3, 3)))
    got = sample(read_by_shot(model), join_captions(texts, SHOTS), variant=variant)
    assert apart(got, sample(wanted, texts[0], variant=variant)) < 1e-5


def test_windows_of_a_long_film_find_their_shots():
    """Each window sees frames by their place in the whole film."""
    seen = []

    def spy(func, q, k, v, *args, **kwargs):
        if q.shape != k.shape:
            seen.append((kwargs["transformer_options"]["context_window"].index_list, q.shape[-2] // 16, k.shape[-2]))
        return func(q, k, v, *args, **kwargs)

    model = tiny.load().clone()
    model.model_options["transformer_options"][OVERRIDE] = spy
    model.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=5,
        context_overlap=2,
        dim=2,
    )
    comfy.context_windows.create_prepare_sampling_wrapper(model)
    shots = Shots(cuts=(4, 6), unit="latent")
    sample(read_by_shot(model), join_captions(captions(), shots), shape=(1, 16, 9, 8, 8), steps=1)
    place = {7: 0, 5: 1, 9: 2}
    windows: dict[tuple, list] = {}
    for frames, count, keys in seen:
        windows.setdefault(tuple(frames), []).extend([place[keys]] * count)
    assert len(windows) > 1
    for frames, shots_read in windows.items():
        wanted = [sum(f >= cut for cut in (4, 6)) for f in frames]
        assert shots_read[-len(frames) :] == wanted  # a newer host puts one frame more in front


def test_an_unpatched_model_reads_the_captions_as_one_text():
    model, texts = tiny.load(), captions()
    joined = join_captions(texts, SHOTS)
    assert torch.equal(sample(model, joined), sample(model, [[joined[0][0], {}]]))


@pytest.mark.parametrize("variant", SPLIT, ids=str)
def test_every_model_in_the_list_takes_captions(variant):
    model, shape, pieces = tiny.load(str(variant)).clone(), tiny.shape_of(variant), []

    def spy(func, q, k, v, *args, **kwargs):
        pieces.append(k.shape[-2])
        return func(q, k, v, *args, **kwargs)

    text, other = (caption(i, 7, variant.text[1], **variant.conds(shape)) for i in range(2))
    plain = sample(model, text, variant=variant, steps=1)
    model.model_options["transformer_options"][OVERRIDE] = spy
    same = sample(read_by_shot(model), join_captions([text] * 2, Shots(even=2)), variant=variant, steps=1)
    assert can_split(model) and apart(same, plain) < 1e-4
    assert 7 in pieces  # a caption alone
    different = sample(read_by_shot(model), join_captions([text, other], Shots(even=2)), variant=variant, steps=1)
    assert apart(different, plain) > 1e-4


def test_masks_of_text_padding_are_joined_too():
    variant = next(v for v in SPLIT if v.cls == "GeneralDIT")
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    texts = [caption(0, 7, variant.text[1], attention_mask=mask), caption(1, 7, variant.text[1])]
    joined = join_captions(texts, Shots(even=2))
    assert joined[0][1]["attention_mask"].tolist() == [[1] * 4 + [0] * 3 + [1] * 7]
    sample(read_by_shot(tiny.load(str(variant))), joined, variant=variant, steps=1)


@pytest.mark.skipif(HOST >= Version("0.8.0"), reason="hands it out")
def test_a_model_whose_text_attention_the_host_does_not_hand_out_says_so(caplog):
    variant = tiny.variant_of("s2v")
    texts = captions((7, 7), facts=variant.conds(tiny.shape_of(variant)))
    sample(read_by_shot(tiny.load("s2v")), join_captions(texts, Shots(even=2)), variant=variant, steps=1)
    assert "every shot read all captions" in caplog.text


def test_what_cannot_be_joined_says_what_to_do():
    with pytest.raises(MoCError, match="2 captions for 3 shots"):
        join_captions(captions((7, 7)), SHOTS)
    with pytest.raises(MoCError, match="combine conditionings after"):
        join_captions([caption(0) + caption(1), caption(2), caption(3)], SHOTS)
    with pytest.raises(MoCError, match="different text encoders"):
        join_captions([caption(0), caption(1, channels=768), caption(2)], SHOTS)


def test_text_changed_afterwards_is_refused_before_sampling():
    text, facts = join_captions(captions(), SHOTS)[0]
    with pytest.raises(MoCError, match="changed after MoC Shot Conditioning"):
        sample(read_by_shot(tiny.load()), [[torch.cat([text, text], 1), facts]])


def test_a_cut_behind_the_end_is_refused_before_sampling():
    with pytest.raises(MoCError, match="this video has only 17 frames"):
        sample(read_by_shot(tiny.load()), join_captions(captions((7, 7)), Shots(cuts=(33,))))


def test_the_captions_leave_nothing_behind():
    model = tiny.load()
    patched = read_by_shot(model)
    sample(patched, join_captions(captions(), SHOTS))
    assert KEY not in str(model.model_options) and "moc_" not in str(patched.model_options)
    assert torch.equal(sample(patched, caption(0)), sample(model, caption(0)))
