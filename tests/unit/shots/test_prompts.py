"""Prompts of several shots: every form that people write, and marks that are wrong."""

import signal
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moc.errors import MoCError
from moc.shots.prompts import ShotPrompt, read_prompt


@pytest.mark.parametrize(
    ("prompt", "common", "texts"),
    [
        ("[global] a woman [shot 1] walks [shot cut] runs", "a woman", ("walks", "runs")),
        ("[global caption] a woman [per shot caption] walks [shot cut] runs", "a woman", ("walks", "runs")),
        ("walks [Shot Cut] runs [cut] sleeps", "", ("walks", "runs", "sleeps")),
        ("a woman [shot 1] walks [shot cut] [shot 2] runs", "a woman", ("walks", "runs")),
        ("[shot 1] walks [shot 2] runs", "", ("walks", "runs")),
        ("[1] walks [2] runs [3] sleeps", "", ("walks", "runs", "sleeps")),
        ("a woman [1] walks [2] runs", "a woman", ("walks", "runs")),
        ("walks | runs | sleeps", "", ("walks", "runs", "sleeps")),
        ("[global] a woman [per shot caption] walks | runs", "a woman", ("walks", "runs")),
        ("[global] a woman [shot cut] walks [shot cut] runs", "a woman", ("walks", "runs")),
        ("[shot 1] walks [shot cut] runs [global] film grain", "film grain", ("walks", "runs")),
        ("[shot 1] walks [shot cut] [shot cut] sleeps", "", ("walks", "", "sleeps")),
        ("a woman walks", "", ("a woman walks",)),
        ("[global] a woman walks", "", ("a woman walks",)),
        ("", "", ("",)),
    ],
)
def test_a_prompt_is_what_is_common_and_one_text_per_shot(prompt, common, texts):
    said = read_prompt(prompt)
    assert (said.common, said.texts) == (common, texts)


@pytest.mark.parametrize(
    ("prompt", "names", "durations"),
    [
        ("[shot 1: 3s] walks [shot 2: 48f] runs", ("", ""), ("3s", "48f")),
        ('[shot 1 "the door" 1.5 seconds] walks [shot cut, 48 frames] runs', ("the door", ""), ("1.5s", "48f")),
        ("[1: 3s] walks [2] runs", ("", ""), ("3s", "")),
        ('[shot 1] walks [shot cut: 2s] [shot 2 "end"] runs', ("", "end"), ("", "2s")),
        ("[shot 1 “the door”] walks", ("the door",), ("",)),
    ],
)
def test_marks_hold_names_and_durations(prompt, names, durations):
    said = read_prompt(prompt)
    assert (said.names, said.durations) == (names, durations)


@pytest.mark.parametrize(
    "text",
    [
        "a {cat|dog} walks",
        "a [cat|dog] walks",
        "(a|b:1.2) walks",
        r"a \| b",
        "[shot on film] a woman [cut flowers]",
        "[1girl] walks",
        "see [2] and [3]",
        "[global warming]",
        "a [cat:dog:0.5]",
    ],
)
def test_other_peoples_brackets_and_bars_are_text(text):
    assert read_prompt(text) == ShotPrompt("", (text,), ("",), ("",))


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("[shot 1] walks [shot 3] runs", r"\[shot 3\] stands where shot 2 begins: number the shots 1, 2, 3"),
        ("[1] walks [1] runs", r"\[1\] stands where shot 2 begins"),
        ("[shot 1: three seconds] walks", r"write it like \[shot 2\], \[shot 2: 3s\]"),
        ("[shot cut: later] walks", "more than a name and a duration"),
        ("[shot 1: 3s 4s] walks", "two durations: take one out"),
        ('[shot 1 "a" "b"] walks', "two names"),
        ("[shot 1] walks [shot cut: 2s] [shot 2: 3s] runs", "says again what the mark before it says"),
        ("[global: 3s] a woman [shot 1] walks", "give a name or a duration to a shot"),
        ("[shot 1] walks [per shot caption] runs", "put it before the first one"),
    ],
)
def test_marks_that_cannot_be_meant_say_what_to_write(prompt, sentence):
    with pytest.raises(MoCError, match=sentence):
        read_prompt(prompt)


words = st.text("abc xyz,.!é世\n", max_size=20).map(str.strip)
names = st.text("abc xyz'", max_size=8).map(str.strip)
durations = st.one_of(st.just(""), st.integers(1, 500).map("{}f".format), st.integers(1, 99).map("{}s".format))


@st.composite
def prompts(draw):
    shots = draw(st.lists(st.tuples(words, names, durations), min_size=2, max_size=6))
    return ShotPrompt(draw(words), *(tuple(column) for column in zip(*shots)))


@given(prompts())
def test_what_is_written_with_marks_is_read_back(said):
    assert read_prompt(str(said)) == said


@given(st.lists(words.filter(bool), min_size=2, max_size=6))
def test_every_form_says_the_same(texts):
    texts = [text.replace("\n", " ") for text in texts]
    numbered = " ".join(f"[shot {i}] {text}" for i, text in enumerate(texts, 1))
    forms = [" [shot cut] ".join(texts), " | ".join(texts), numbered, numbered.replace("[shot ", "[")]
    assert {read_prompt(form).texts for form in forms} == {tuple(texts)}


@given(st.text('[]|shotcut12 :"global', max_size=60))
def test_any_text_is_read_or_refused_in_words(prompt):
    try:
        said = read_prompt(prompt)
    except MoCError:
        return
    assert len(said.texts) == len(said.names) == len(said.durations) >= 1


@pytest.fixture
def soon():
    """Ends what takes as long as the square of its text: not a measure of speed, a net under a hang."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timer here")

    def give_up(*_):
        raise AssertionError("reading grows faster than its text")

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2)  # of the processor, whatever else the machine does
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize(
    "piece",
    ["a|", "a\\", "[", "1", " ", '""', "-", "{[", "[1] a"],
)
@pytest.mark.parametrize("head", ["", "[", "[shot 1", "[per", "[shot 1: 1"])
@pytest.mark.parametrize("tail", ["", "]"])
def test_a_prompt_of_a_book_s_length_is_read_piece_by_piece(head, piece, tail, soon):
    with suppress(MoCError):
        read_prompt(head + piece * (100_000 // len(piece)) + tail)
