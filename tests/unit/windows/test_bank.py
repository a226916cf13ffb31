"""What is kept of a film, how it is packed, and that a kept key counts for those left out."""

from __future__ import annotations

import pytest
import torch

from moc.backends import health, library
from moc.errors import MoCError
from moc.windows import BankSettings
from moc.windows.attend import attend, dense
from moc.windows.bank import alike, fitted, kept
from moc.windows.memory import masks_of
from moc.windows.packing import LARGEST, pack, packed_bytes, unpack
from moc.windows.store import Store
from moc.windows.turn import Rotation, turn


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_first_frame_of_a_shot_stands_for_all_of_it():
    assert kept([(0, 3), (3, 4), (4, 9)], 1, 10) == {0: 3, 3: 1, 4: 5}


def test_more_frames_of_a_shot_lie_evenly_and_share_its_weight():
    assert kept([(0, 6), (6, 11)], 2, 10) == {0: 3, 3: 3, 6: 2.5, 8: 2.5}
    assert kept([(0, 2)], 5, 10) == {0: 1, 1: 1}


def test_all_frames_stand_for_themselves():
    assert kept([(1, 4), (4, 6)], 0, 10) == dict.fromkeys(range(1, 6), 1)


def test_a_shot_longer_than_a_window_counts_as_several():
    assert kept([(0, 10)], 1, 4) == {0: 4, 4: 4, 8: 2}


def test_only_the_shots_that_are_named_are_kept():
    assert kept([(0, 3), (3, 4), (4, 9)], 1, 10, only=(0, 2, 7)) == {0: 3, 4: 5}
    assert kept([(0, 3)], 1, 10, only=(3,)) == {}


def test_frames_of_one_weight_are_read_together_in_the_order_of_the_film():
    assert alike({9, 3, 0, 5}, {0: 3, 3: 2, 5: 3, 9: 3}) == [(2, [3]), (3, [0, 5, 9])]


@pytest.mark.parametrize("given", [{"storage": "1 bit"}, {"frames": -1}, {"start": 1.5}, {"budget": -1.0}])
def test_what_no_bank_can_be_is_refused(given):
    with pytest.raises(MoCError, match="bank_"):
        BankSettings(**given)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_a_packed_channel_comes_back_within_half_a_step(bits, dtype, size):
    x = (random(2, 40, 64) * size).to(dtype)
    packed, out = pack(x, bits), torch.empty(2, 40, 64)
    unpack(packed, out)
    step = x.float().abs().amax(-1, keepdim=True) / LARGEST[bits]
    assert ((out - x.float()).abs() <= 0.51 * step).all()
    assert packed.bytes == x.numel() * bits // 8 + 2 * 80


def test_a_token_of_nothing_stays_nothing_and_the_models_own_precision_stays_exact():
    out = torch.ones(1, 3, 8)
    unpack(pack(torch.zeros(1, 3, 8), 4), out)
    assert not out.any()
    x = random(1, 3, 8)
    unpack(pack(x, 16), out)
    assert torch.equal(out, x)


def test_a_key_is_turned_there_and_back():
    angles = random(4)
    k = random(2, 3, 5, 8)
    for halves in (False, True):
        there, back = (Rotation((a * angles).cos(), (a * angles).sin(), halves) for a in (1, -1))
        assert torch.allclose(turn(turn(k, there), back), k, atol=1e-6) and not torch.allclose(turn(k, there), k)


def test_neighbours_and_halves_are_two_orders_of_the_same_pairs():
    angles, k = random(4), random(1, 1, 5, 8)
    apart = torch.cat([k[..., ::2], k[..., 1::2]], -1)
    one = turn(k, Rotation(angles.cos(), angles.sin()))
    other = turn(apart, Rotation(angles.cos(), angles.sin(), halves=True))
    assert torch.equal(torch.cat([one[..., ::2], one[..., 1::2]], -1), other)


def softmax(q, k, v):
    return ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v


def test_a_weight_is_as_if_the_key_stood_there_so_many_times():
    q, k, v = (random(1, 2, 7, 16, seed=i) for i in range(3))
    banks = [(3, random(1, 2, 4, 16, seed=5), random(1, 2, 4, 16, seed=6))]
    banks += [(2, random(1, 2, 3, 16, seed=7), random(1, 2, 3, 16, seed=8))]
    parts = [(w, lambda some, x=(x, y): tuple(z[:, some] for z in x)) for w, x, y in banks]
    got, share = attend(q, dense(q, k, v, 16**-0.5)(0, slice(None)), parts, 16**-0.5)
    keys = torch.cat([k, *(x for w, x, _ in banks for _ in range(w))], -2)
    values = torch.cat([v, *(y for w, _, y in banks for _ in range(w))], -2)
    assert torch.allclose(got, softmax(q, keys, values), atol=1e-6)
    whole = ((q @ keys.mT) * 16**-0.5).softmax(-1)
    assert torch.allclose(share, whole[..., k.shape[-2] :].sum(-1), atol=1e-6)


def test_heads_worked_on_apart_come_out_the_same(monkeypatch):
    q, k, v = (random(1, 5, 7, 16, seed=i) for i in range(3))
    parts = [(2.0, lambda some: (k[:, some, :3], v[:, some, :3]))]
    whole, share = attend(q, dense(q, k, v, 0.25)(0, slice(None)), parts, 0.25)
    monkeypatch.setattr("moc.windows.attend.AT_ONCE", 2 * 7 * 16)
    apart, same = attend(q, dense(q, k, v, 0.25)(0, slice(None)), parts, 0.25)
    assert torch.allclose(apart, whole, atol=1e-6) and torch.allclose(same, share)


def test_a_library_that_fails_is_asked_once_and_the_bank_is_read_without_it(monkeypatch):
    asked = []
    monkeypatch.setattr(health, "_reasons", {})
    monkeypatch.setattr(library, "usable", lambda q: health.reason(q.device, health.LIBRARY) is None)
    monkeypatch.setattr(library, "_attention", lambda *_: asked.append(1) or 1 / 0)
    q, k, v = (random(1, 2, 7, 16, seed=i) for i in range(3))
    bank = [(1.0, lambda some: (k[:, some, :3], v[:, some, :3]))]
    got, _ = attend(q, dense(q, k, v, 16**-0.5)(0, slice(None)), bank, 16**-0.5)
    assert asked == [1]
    assert torch.allclose(got, softmax(q, torch.cat([k, k[:, :, :3]], -2), torch.cat([v, v[:, :, :3]], -2)), atol=1e-6)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_store_gives_frames_in_order_and_the_newest_of_each(bits):
    store, place, x = Store(bits, 0), ("model", 0, "prompt"), random(5, 2, 6, 32)
    for frame in (4, 1, 4):
        store.put(place, frame, x[frame], -x[frame])
    store.put(place, 1, x[3], -x[3])
    k, v = store.get(place, [1, 4], slice(1, 2), random(1, 2, 9, 32))
    want = torch.cat([x[3, 1:], x[4, 1:]], -2)[None]
    assert torch.allclose(k, want, atol=0.5 if bits == 4 else 0.03) and torch.equal(v, -k)
    assert store.frames(place) == {1, 4} and store.frames(("model", 1, "prompt")) == set()
    size = store.elsewhere
    store.put(place, 1, x[2], x[2])
    assert store.elsewhere == size == 2 * 2 * (2 * 6 * 32 * (4 if bits == 16 else bits / 8) + (bits < 16) * 2 * 2 * 6)
    store.clear()
    assert store.frames(place) == set() and not store.elsewhere


def test_in_long_windows_kept_frames_count_for_twice_of_them_and_never_for_less_than_their_shots():
    weights = {0: 3.0, 3: 3.0, 6: 3.0, 9: 3.0}
    assert fitted(weights, 6) == weights == fitted(weights, 3)
    assert fitted(weights, 18) == dict.fromkeys(weights, 9.0)
    assert fitted({0: 6.0, 6: 2.0}, 8) == {0: 12.0, 6: 4.0} and fitted({}, 8) == {}


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_how_much_packed_keys_will_take_is_known_before(bits):
    assert packed_bytes(5, 3, 16, bits, 4) == pack(random(3, 5, 16, seed=0), bits).bytes


def test_a_mask_of_every_frame_lies_over_the_film_and_an_empty_one_leaves_its_frame_out():
    mask = torch.stack([torch.full((2, 2), float(i)) for i in range(4)])
    found = masks_of([2, 3, 6, 9], mask, 2, 10)
    assert {frame: float(part[0, 0]) for frame, part in found.items()} == {6: 2.0, 9: 3.0}
    assert masks_of([2, 9], mask[1:2], 2, 10).keys() == {2, 9}
