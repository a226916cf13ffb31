"""Who remembers what, and which part of it."""

import pytest
import torch

from moc.errors import MoCError
from moc.shots.cuts import Shots
from moc.windows import ALL, Memory
from moc.windows.memory import READ, choose, kept_tokens

CLIP = torch.zeros(1, 4, 6, 2, 2)
ANNA, BOB, AGAIN = (Memory(name, (CLIP,)) for name in ("Anna", "bob", "anna"))


def shots(*texts: str, common: str = "") -> Shots:
    return Shots(cuts=tuple(range(1, len(texts))), unit="latent", texts=texts, common=common)


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        (shots("walks", "runs"), [{0, 1, 2}, {0, 1, 2}]),
        (shots("[use: anna] walks", "runs"), [{0}, set()]),
        (shots("walks [use: ANNA, bob]", "[use:bob] runs"), [{0, 1}, {1}]),
        (shots("walks", "runs [use: bob]", common="all [use: anna]"), [{0}, {0, 1}]),
        (None, [{0, 1, 2}]),
    ],
)
def test_shots_remember_whom_they_name_and_of_one_name_the_first(said, chosen):
    assert choose([ANNA, BOB, AGAIN], said, READ[0]) == chosen
    assert choose([ANNA, BOB, AGAIN], said, ALL) == [{0, 1, 2}] * len(chosen)


def test_a_name_that_nobody_has_is_refused():
    with pytest.raises(MoCError, match="uses 'carl', but the memories are called: Anna, bob"):
        choose([ANNA, BOB], shots("[use: carl]"), READ[0])


def test_what_a_prompt_names_is_not_read_as_text():
    said = shots("walks [use: anna] home", "runs", common="[use: bob] film grain")
    assert said.prompts == ("film grain\nwalks home", "film grain\nruns")
    assert said.whole == "film grain\nwalks home\nruns"
    assert shots("a [used: car]", "[1girl]").whole == "a [used: car]\n[1girl]"


def test_kept_frames_stand_for_all_of_a_clip_as_often_as_they_count():
    assert Memory("a", (CLIP,), frames=2, strength=4.0).weights() == [{0: 12.0, 3: 12.0}]
    assert Memory("a", (CLIP, CLIP[:, :, :1]), frames=0).weights() == [dict.fromkeys(range(6), 1.0), {0: 1.0}]


def test_every_frame_has_the_mask_of_its_time():
    masks = torch.arange(3.0)[:, None, None].expand(3, 2, 2)
    one, other = Memory("a", (CLIP, CLIP[:, :, :3]), mask=masks).masks()
    assert [int(mask[0, 0]) for mask in (*one, *other)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert Memory("a", (CLIP,)).masks() is None


def test_tokens_are_kept_that_a_mask_covers_by_half_or_the_most_where_none_is():
    mask = torch.zeros(8, 8)
    mask[:4, :4], mask[4:, 4] = 1.0, 1.0
    assert kept_tokens(mask, (2, 2)).tolist() == [0]
    mask[:4, :4] = 0.0
    assert kept_tokens(mask, (2, 2)).tolist() == [3]
