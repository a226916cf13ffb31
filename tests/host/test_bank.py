"""MoC Windows with a bank: windows read what is kept of each other, exactly, and leave nothing behind."""

from __future__ import annotations

import gc
import weakref

import comfy.model_management
import comfy.samplers
import pytest
import tiny
import torch
from banks import BLOCKS, FIVE, HOST, NEW, TEN, filled, keys_of, watch, windows
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host.windows import reader as room
from mixture_of_contexts.moc.host.windows.bank import BANK
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.moc.windows import DRAWN, SHOTS
from mixture_of_contexts.moc.windows.store import Store
from mixture_of_contexts.nodes.windows import MoCWindows
from packaging.version import Version
from spies import OVERRIDE, apart, everything, little, routed


def test_a_window_and_a_bank_of_exact_keys_are_the_whole_film():
    """Every window stands at the film's beginning, and the keys are turned to where they are, seen from there."""
    model = tiny.load()
    wanted, kept = keys_of(model)
    got = tiny.sample(filled(windows(model, bank_frames=0), kept), shape=TEN, steps=1)
    alone = tiny.sample(windows(model, bank="off"), shape=TEN, steps=1)
    assert apart(got, wanted) < 1e-5 < 1e-2 < apart(alone, wanted)


def test_a_wrong_place_is_seen():
    """Else the test above could not fail."""
    model = tiny.load()
    wanted, kept = keys_of(model)
    elsewhere = windows(model, bank_frames=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(room, "turn", lambda k, rotation: k)
        assert apart(tiny.sample(filled(elsewhere, kept), shape=TEN, steps=1), wanted) > 1e-3


def test_the_first_frame_of_a_shot_counts_for_all_of_it(monkeypatch):
    model, banks = tiny.load(), watch(monkeypatch)
    tiny.sample(windows(model), shape=TEN)
    assert banks[0].weights == {0: 2, 2: 2, 4: 2, 6: 2, 8: 2}
    assert all(frames == {0, 2, 4, 6, 8} for frames in banks[0].held.values()) and len(banks[0].held) == BLOCKS


def test_kept_frames_count_for_the_window_where_it_is_long(monkeypatch):
    model, banks = tiny.load(), watch(monkeypatch)
    long = tiny.sample(windows(model, bank_shots="1", bank_weight="the window"), shape=TEN)
    assert banks[0].weights == {0: 8.0}, "twice the 4 latent frames of a window"
    tiny.sample(windows(model, bank_weight="the window"), shape=TEN)
    assert banks[1].weights == {0: 2, 2: 2, 4: 2, 6: 2, 8: 2}
    assert not torch.equal(long, tiny.sample(windows(model, bank_shots="1"), shape=TEN))


def test_a_mask_says_what_is_kept(monkeypatch):
    """64 pixels are 4 tokens a side; the left half is kept, and nothing of frames where the mask shows nothing."""
    model, banks = tiny.load(), watch(monkeypatch)
    half = torch.zeros(1, 64, 64)
    half[..., :32] = 1
    kept = []
    end = room.Bank.end
    monkeypatch.setattr(room.Bank, "end", lambda bank: kept.append(tokens(bank)) or end(bank))

    def tokens(bank):
        return {f: kv[0].codes.shape[1] for f, kv in next(iter(bank.store._frames.values())).items()}

    got = tiny.sample(windows(model, bank_mask=half), shape=TEN)
    assert kept[0] == dict.fromkeys((0, 2, 4, 6, 8), 8) and not banks[0].unread
    later = torch.cat([torch.zeros(5, 64, 64), half.expand(5, -1, -1)])
    tiny.sample(windows(model, bank_mask=later), shape=TEN)
    assert kept[1] == {6: 8, 8: 8}
    whole = tiny.sample(windows(model, bank_mask=torch.ones(1, 64, 64)), shape=TEN)
    plain = tiny.sample(windows(model), shape=TEN)
    assert torch.equal(whole, plain) and not torch.equal(got, plain)


@pytest.mark.parametrize("storage", ["as the model", "4 bit"])
def test_what_the_bank_will_take_is_known_before_anything_is_kept(storage, monkeypatch):
    banks, foreseen, half = watch(monkeypatch), [], torch.zeros(1, 64, 64)
    half[..., :32] = 1
    monkeypatch.setattr(room.Bank, "foresee", lambda bank, size, device: foreseen.append(size))
    tiny.sample(windows(tiny.load(), bank_storage=storage, bank_mask=half), shape=TEN, cfg=3.0)
    assert foreseen == [banks[0].bytes]


def test_the_log_says_what_the_bank_will_take_and_no_room_is_refused(monkeypatch, caplog):
    caplog.set_level("INFO")
    tiny.sample(windows(tiny.load()), shape=TEN)
    assert "the bank will hold 5 frames, 0.00 GB on the GPU and 0.00 GB in main memory" in caplog.text
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 1000.0)
    with pytest.raises(MoCError, match="needs 0.0 GB of main memory .* keep fewer frames or shots"):
        tiny.sample(windows(tiny.load()), shape=TEN)


@pytest.mark.parametrize("follow", [SHOTS, DRAWN])
def test_every_window_reads_the_others_and_not_itself(follow, monkeypatch):
    seen, get = [], Store.get

    def spy(store, place, frames, *args, **kwargs):
        seen.append(frames)
        return get(store, place, frames, *args, **kwargs)

    monkeypatch.setattr(Store, "get", spy)
    tiny.sample(windows(tiny.load(), follow), shape=TEN, steps=2)
    first, second = seen[: 2 * BLOCKS], seen[2 * BLOCKS :]
    assert len(second) == 3 * BLOCKS, "in the first step the first window finds nothing"
    kept = {0, 2, 4, 6, 8}
    assert {len(frames) for frames in first} <= {1, 2, 3, 4}
    assert all(kept - set(frames) for frames in second), "its own are not read"
    assert set().union(*second) == kept


@pytest.mark.parametrize("cfg", [1.0, 3.0], ids=["positive alone", "both prompts"])
@pytest.mark.parametrize("follow", [SHOTS, DRAWN])
def test_prompts_batched_or_one_after_the_other_are_the_same(cfg, follow, monkeypatch):
    patched = windows(tiny.load(), follow)
    wanted = tiny.sample(patched, shape=TEN, cfg=cfg)
    banks = watch(monkeypatch)
    monkeypatch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
    assert apart(tiny.sample(patched, shape=TEN, cfg=cfg), wanted) < 1e-5
    prompts = {place[2] for place in banks[0].held}
    assert len(prompts) == (1 if cfg == 1 else 2), "each prompt has a bank of its own"


def test_the_other_prompt_is_another_memory():
    """Where both prompts shared one, the positive one alone would come out differently beside another negative."""
    patched = windows(tiny.load())
    assert apart(tiny.sample(patched, shape=TEN, cfg=1.0001), tiny.sample(patched, shape=TEN, cfg=1.0)) < 1e-3


def test_a_pass_that_skips_layers_remembers_for_itself():
    """Guidance by skipped layers samples the same windows a second time, with the same prompt."""
    patched = windows(tiny.load())
    guided = SkipLayerGuidanceDiT.execute(patched, 1e-12, 0.0, 1.0, double_layers="1").args[0]
    assert apart(tiny.sample(guided, shape=TEN), tiny.sample(patched, shape=TEN)) < 1e-5


def test_what_bank_off_samples_is_what_was_sampled_before():
    model = tiny.load()
    old = MoCWindows.execute(model, FIVE, SHOTS, 13, 0).args[0]
    new = MoCWindows.execute(model, FIVE, SHOTS, 13, 0, bank="off", bank_frames=3, bank_blocks="0").args[0]
    assert torch.equal(tiny.sample(old, shape=TEN), tiny.sample(new, shape=TEN))
    assert not new.get_wrappers("diffusion_model", "moc_windows")


@pytest.mark.parametrize("storage", ["8 bit", "4 bit"])
def test_a_smaller_bank_is_nearly_the_same(storage, monkeypatch):
    model, banks = tiny.load(), watch(monkeypatch)
    whole = tiny.sample(windows(model), shape=TEN)
    packed = tiny.sample(windows(model, bank_storage=storage), shape=TEN)
    alone = tiny.sample(windows(model, bank="off"), shape=TEN)
    assert 0 < apart(packed, whole) < apart(alone, whole) / (20 if storage == "8 bit" else 2)
    assert banks[1].bytes < banks[0].bytes / (3.7 if storage == "8 bit" else 7)


def test_blocks_and_the_part_of_the_sampling_that_reads(monkeypatch):
    model, banks = tiny.load(), watch(monkeypatch)
    one = tiny.sample(windows(model, bank_blocks="1"), shape=TEN)
    late = tiny.sample(windows(model, bank_from=1.0), shape=TEN)
    off = tiny.sample(windows(model, bank="off"), shape=TEN)
    assert {place[1] for place in banks[0].held} == {(1, 0)} and not torch.equal(one, off)
    assert torch.equal(late, off) and not banks[1].read and banks[1].held


@pytest.mark.parametrize("order", ["before", "after"])
def test_moc_apply_before_or_after(order):
    """What a window reads of itself is routed, and what it reads of the bank comes on top."""
    model, asked = tiny.load(), windows(tiny.load())
    wanted = tiny.sample(asked, shape=TEN)
    alone = tiny.sample(windows(model, bank="off"), shape=TEN)
    if order == "before":
        patched, trace = routed(model, everything(), FIVE)
        patched = windows(patched)
    else:
        patched, trace = routed(windows(model), everything(), FIVE)
    assert apart(tiny.sample(patched, shape=TEN), wanted) < 1e-5 < 1e-2 < apart(alone, wanted)
    assert not trace.dense and set(trace.blocks_seen) == set(range(BLOCKS))


@pytest.mark.parametrize("with_apply", [True, False])
def test_a_call_of_unknown_tokens_sees_its_own_window_and_the_log_says_so(with_apply, monkeypatch, caplog):
    model, made = windows(tiny.load()), room._reader
    if with_apply:
        model, _ = routed(model, everything(), FIVE)

    def one_prompt_too_many(*args):
        reader = made(*args)
        reader.prompts = [*reader.prompts, "another"]
        return reader

    monkeypatch.setattr(room, "_reader", one_prompt_too_many)
    got, alone = tiny.sample(model, shape=TEN), tiny.sample(windows(tiny.load(), bank="off"), shape=TEN)
    assert apart(got, alone) < 1e-5
    assert f"{2 * 3 * BLOCKS} calls saw their own window alone and not the bank: {room.UNKNOWN}" in caplog.text


def test_a_routed_window_reads_its_bank_as_the_reference_says(monkeypatch):
    """With few chunks chosen: the choice of a window's own chunks does not hang on the bank."""
    merged = []
    beside = room.Reader.beside_routed

    def spy(reader, call, layout, q, out, lse):
        frames = reader.frames(call.options)
        got = beside(reader, call, layout, q, out, lse)
        if frames:
            place = reader._place(call.options, reader.prompts[0])
            order = sorted(frames[0], key=lambda frame: (reader.bank.weights[frame], frame))
            k, v = reader.bank.store.get(place, order, slice(None), q)
            tokens = k.shape[-2] // len(order)
            weight = torch.tensor([reader.bank.weights[f] for f in order]).repeat_interleave(tokens)
            scores = (q @ k.mT) * q.shape[-1] ** -0.5 + weight.log()
            total = torch.logaddexp(lse, scores.logsumexp(-1))[..., None]
            want = (lse[..., None] - total).exp() * out + (scores - total).exp() @ v
            merged.append(apart(got, want))
        return got

    monkeypatch.setattr(room.Reader, "beside_routed", spy)
    patched, _ = routed(windows(tiny.load()), little(), FIVE)
    tiny.sample(patched, shape=TEN, steps=1)
    assert len(merged) == 2 * BLOCKS and max(merged) < 1e-5


def test_other_packs_overrides_are_asked_as_long_as_there_is_nothing_to_read():
    calls = []
    model = tiny.load().clone()

    def other(func, q, k, v, *args, **kwargs):
        calls.append(q.shape == k.shape)
        return func(q, k, v, *args, **kwargs)

    model.model_options["transformer_options"][OVERRIDE] = other
    wanted = tiny.sample(windows(tiny.load()), shape=TEN)
    assert torch.equal(tiny.sample(windows(model), shape=TEN), wanted)
    assert sum(calls) == BLOCKS, "the first window of the first step"
    assert calls.count(False) == 2 * 3 * BLOCKS, "the text is none of our business"


def test_a_mask_leaves_a_call_its_own_window_and_the_log_says_so(monkeypatch, caplog):
    model, banks = tiny.load().clone(), watch(monkeypatch)

    def other(func, q, k, v, heads, mask=None, **kwargs):
        return func(q, k, v, heads, mask=mask, **kwargs)

    model.model_options["transformer_options"][OVERRIDE] = other
    masked = windows(model).clone()

    def put(executor, *args, **kwargs):
        options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "sigmas" in x)
        ours = options[OVERRIDE]

        def with_mask(func, q, k, v, heads, mask=None, **more):
            mask = torch.full((1, 1, q.shape[-2], k.shape[-2]), -1.0) if q.shape == k.shape else mask
            return ours(func, q, k, v, heads, mask=mask, **more)

        options[OVERRIDE] = with_mask
        return executor(*args, **kwargs)

    masked.add_wrapper_with_key("diffusion_model", "test", put)
    got = tiny.sample(masked, shape=TEN)
    assert apart(got, tiny.sample(windows(tiny.load(), bank="off"), shape=TEN)) < 1e-5
    assert banks[0].unread == {room.MASKED: 2 * 3 * BLOCKS} and room.MASKED in caplog.text


def test_two_samplers_have_a_bank_each(monkeypatch):
    banks, model = watch(monkeypatch), windows(tiny.load())
    tiny.sample(model, shape=TEN, steps=4, last_step=2, force_full_denoise=False)
    tiny.sample(model, shape=TEN, steps=4, start_step=2, disable_noise=True)
    assert len(banks) == 2 and banks[0] is not banks[1] and banks[0].read == banks[1].read == (3 * 2 - 1) * BLOCKS


def test_cancelled_and_started_again(monkeypatch):
    patched, banks, calls = windows(tiny.load()), watch(monkeypatch), []
    wanted = tiny.sample(patched, shape=TEN)

    def stop(executor, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise comfy.model_management.InterruptProcessingException()
        return executor(*args, **kwargs)

    stopped = patched.clone()
    stopped.add_wrapper_with_key("diffusion_model", "test", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped, shape=TEN)
    assert len(banks) == 2 and banks[1].held and not banks[1].store._frames
    assert torch.equal(tiny.sample(patched, shape=TEN), wanted)


def test_nothing_is_left_behind(monkeypatch):
    model, banks = tiny.load(), watch(monkeypatch)
    before = tiny.sample(model, shape=TEN)
    patched = windows(model)
    tiny.sample(patched, shape=TEN)
    assert BANK not in str(patched.model_options) and BANK not in str(model.model_options)
    assert not any(block._forward_pre_hooks for block in model.model.diffusion_model.blocks)
    bank = weakref.ref(banks.pop())
    gc.collect()
    assert bank() is None
    assert torch.equal(tiny.sample(model, shape=TEN), before)


def test_a_film_of_another_length_and_one_that_fits_into_a_window(monkeypatch):
    model, banks = tiny.load(), watch(monkeypatch)
    patched = windows(model)
    tiny.sample(patched, shape=(1, 16, 12, 8, 8))
    assert torch.isfinite(tiny.sample(patched, shape=TEN)).all()
    fits = tiny.sample(patched, shape=(1, 16, 4, 8, 8))
    assert torch.equal(fits, tiny.sample(model, shape=(1, 16, 4, 8, 8))) and len(banks) == 2


@NEW
def test_the_frame_in_front_of_a_window_is_neither_kept_nor_read_twice(monkeypatch):
    seen, get = [], Store.get

    def spy(store, place, frames, *args, **kwargs):
        seen.append(frames)
        return get(store, place, frames, *args, **kwargs)

    monkeypatch.setattr(Store, "get", spy)
    model = MoCWindows.execute(tiny.load(), FIVE, SHOTS, 13, 0, bank="on", bank_frames=0).args[0]
    tiny.sample(model, shape=TEN, steps=1)
    assert seen[0] == [0, 1, 2], "frame 3 runs along with the window of frames 4 to 7"
    assert seen[BLOCKS] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform"])
def test_the_hosts_own_schedules_read_it_too(schedule, monkeypatch):
    banks = watch(monkeypatch)
    out = tiny.sample(windows(tiny.load(), schedule, overlap=4), shape=TEN)
    assert torch.isfinite(out).all() and banks[0].read and not banks[0].unread


def test_a_compiled_model():
    model, graphs = tiny.load(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = model.clone()
    guards = {"guard_filter_fn": lambda guards: ["transformer_options" not in g.name for g in guards]}
    set_torch_compile_wrapper(compiled, backend=backend, options=guards)
    wanted = tiny.sample(windows(model), shape=TEN)
    assert apart(tiny.sample(windows(compiled), shape=TEN), wanted) < 1e-5 and graphs


CUT = [v for v in tiny.VARIANTS if v.windows and v.name not in ("s2v", "dancer")]  # whose sound no ComfyUI cuts
FAMILIES = [v for v in CUT if HOST >= max(Version(v.since), Version(v.windows))]


@pytest.mark.parametrize("variant", FAMILIES, ids=str)
def test_every_family_reads_its_bank_or_says_that_there_is_none(variant, monkeypatch):
    model, banks, shape = tiny.load(str(variant)), watch(monkeypatch), tiny.shape_of(variant, TEN)
    more = {"keep_first": True, "length": 33} if "time_dim_replace" in variant.conds(shape) else {"length": 33}
    more |= {"shots": Shots(even=5)}
    if room.rope.missing(model.model.diffusion_model):
        with pytest.raises(MoCError, match="no bank for this model"):
            windows(model, **more)
        return
    tiny.sample(windows(model, **more), variant, shape=shape, steps=1)
    (bank,) = banks
    if "guides" in variant.name:
        assert set(bank.unread) <= {room.UNKNOWN, room.MASKED}
    else:
        assert bank.read and not bank.unread


REFUSED = {
    "a block that is not there": ({"bank_blocks": "0, 7"}, "is told of block 7"),
    "no blocks": ({"bank_blocks": "first"}, "names no blocks"),
    "another storage": ({"bank_storage": "2 bit"}, "bank_storage"),
    "another weight": ({"bank_weight": "heavy"}, "bank_weight is 'heavy'"),
    "a mask of nothing": ({"bank_mask": torch.zeros(1, 64, 64)}, "bank_mask shows nothing"),
    "another bank": ({"bank": "perhaps"}, "bank is 'perhaps'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(what):
    given, match = REFUSED[what]
    with pytest.raises(MoCError, match=match):
        tiny.sample(windows(tiny.load(), **given), shape=TEN)
