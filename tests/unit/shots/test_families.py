"""Frames of the film and latent frames, in both directions, for every family's autoencoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moc.errors import MoCError
from moc.shots.cuts import Shots
from moc.shots.time_rules import FAMILIES, TimeRule, causal, rule_of

RULES = st.sampled_from([*FAMILIES.values(), TimeRule((2, 3), (5, 1)), TimeRule((), (4,), (4, 0))])


def held(rule: TimeRule, frames: int) -> list[int]:
    """The latent frame of every frame of the film, by writing the pattern down."""
    pattern = [*rule.first, *(list(rule.repeat) * frames)]
    return [latent for latent, count in enumerate(pattern) for _ in range(count)][:frames]


@given(rule=RULES, frame=st.integers(0, 300))
def test_a_frame_is_in_the_latent_frame_that_holds_it(rule, frame):
    latent = rule.latent_of(frame)
    assert latent == held(rule, frame + 1)[frame]
    start, stop = rule.span(latent)
    assert start <= frame < stop and rule.latent_of(start) == rule.latent_of(stop - 1) == latent


@given(rule=RULES, latents=st.integers(0, 80))
def test_latent_frames_there_and_back(rule, latents):
    assert rule.latents(rule.frames(latents)) == latents


@given(rule=RULES, frames=st.integers(1, 300))
def test_frames_that_do_not_fill_a_latent_frame_are_left_over(rule, frames):
    latents = rule.latents(frames)
    assert rule.frames(latents) <= frames < rule.frames(latents + 1)


@given(rule=RULES, cut=st.integers(1, 300))
def test_a_cut_moves_to_the_nearest_border(rule, cut):
    place = held(rule, cut + 40)
    borders = [f for f in range(1, cut + 40) if place[f] != place[f - 1]]
    nearest = min(borders, key=lambda border: (abs(border - cut), border))
    assert rule.nearest(cut) == (place[nearest], nearest)


@pytest.mark.parametrize("name", FAMILIES)
@given(frames=st.integers(1, 300))
def test_a_length_snaps_to_the_familys_lengths(name, frames):
    rule = FAMILIES[name]
    below, above = rule.whole(frames)
    step, rest = rule.lengths
    smallest = rest or step
    lengths = [n for n in range(smallest, frames + 2 * step) if n % step == rest % step]
    assert below == max((n for n in lengths if n <= frames), default=smallest)
    assert above == min(n for n in lengths if n >= frames)
    assert rule.frames(rule.latents(above)) == above


@pytest.mark.parametrize(
    ("name", "written", "frames", "latents", "start"),
    [
        ("Wan", "4n+1", 81, 21, 5),
        ("HunyuanVideo", "4n+1", 129, 33, 5),
        ("LTX-Video", "8n+1", 97, 13, 9),
        ("Cosmos 1", "8n+1", 121, 16, 9),
        ("Mochi", "6n+1", 25, 5, 7),
        ("MiniMax H3", "17n+5", 22, 7, 5),
        ("every frame", "1n", 14, 14, 2),
    ],
)
def test_the_families_as_people_know_them(name, written, frames, latents, start):
    rule = FAMILIES[name]
    assert (rule.name, rule.latents(frames), rule.frames(latents)) == (written, latents, frames)
    assert rule.frames(2) == start


def test_a_rule_goes_by_several_names():
    assert rule_of("Wan") == rule_of(4) == causal(4)
    assert rule_of((1, 4, 4, 4, 4)).frames(7) == FAMILIES["MiniMax H3"].frames(7)
    with pytest.raises(MoCError, match="unknown model family 'Wam'; choose one of: Wan, "):
        rule_of("Wam")


@st.composite
def latent_cuts(draw):
    return tuple(sorted(draw(st.sets(st.integers(1, 60), max_size=6))))


@given(rule=RULES, cuts=latent_cuts(), extra=st.integers(1, 9))
def test_latent_cuts_become_frames_and_the_same_latent_cuts_again(rule, cuts, extra):
    shots = Shots(cuts=cuts, unit="latent", length=(cuts[-1] if cuts else 0) + extra)
    film, notes = shots.to("video", rule)
    assert film.unit == "video" and not notes
    assert film.to("latent", rule) == (shots, ())
    assert film.starts(shots.length, rule) == ((0, *cuts), ())


@given(rule=RULES, cuts=st.sets(st.integers(1, 200), min_size=1, max_size=5), extra=st.integers(1, 9))
def test_every_moved_cut_is_told_and_no_other(rule, cuts, extra):
    shots = Shots(cuts=tuple(sorted(cuts)), length=max(cuts) + extra)
    try:
        latent, notes = shots.to("latent", rule)
    except MoCError as error:
        assert "too short" in str(error)
        return
    back = latent.to("video", rule)[0]
    assert len(notes) == sum(a != b for a, b in zip(shots.cuts, back.cuts))
    assert latent.cuts[-1] < latent.length


def test_a_cut_next_to_the_end_moves_to_the_last_border_of_the_film():
    assert Shots(cuts=(80,)).starts(21, 4) == (
        (0, 20),
        ("cut 1 moved from frame 80 to 77, the nearest one this model can cut at",),
    )
    with pytest.raises(MoCError, match="shot 2 is too short"):
        Shots(cuts=(77, 80)).starts(21, 4)
