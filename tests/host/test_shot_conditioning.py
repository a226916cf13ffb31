"""The node: texts of the shots -> a conditioning in which every shot reads its own, or all, and it says which."""

from __future__ import annotations

import pytest
import tiny
import torch
from mixture_of_contexts.moc.errors import MoCError
from mixture_of_contexts.moc.host.captions import KEY
from mixture_of_contexts.moc.shots.cuts import Shots
from mixture_of_contexts.nodes.shot_conditioning import MoCShotConditioning
from spies import apart
from test_cross import caption, sample
from tiny import random

SHOTS = Shots(cuts=(5,), texts=("walks", "runs and runs"), common="a woman")


class Words:
    """A text encoder: one token a word."""

    def __init__(self, channels: int = 4096):
        self.asked: list[str] = []
        self.channels = channels

    def tokenize(self, text: str) -> list[str]:
        self.asked.append(text)
        return text.split()

    def encode_from_tokens_scheduled(self, words: list[str]) -> list:
        return [[torch.cat([random(1, 1, self.channels, seed=len(word)) for word in words], 1), {}]]

    def encode(self, text: str) -> list:
        return self.encode_from_tokens_scheduled(text.split())


def run(name: str = "t2v", shots: Shots = SHOTS, **inputs):
    return MoCShotConditioning.execute(model=[tiny.load(name)], shots=[shots], **inputs).args


def test_every_shot_reads_what_is_common_and_its_own_text():
    clip = Words()
    model, conditioning, report = run(clip=[clip])
    assert clip.asked == ["a woman\nwalks", "a woman\nruns and runs"]
    assert conditioning[0][1]["model_conds"][KEY].cond.tokens == (3, 5)
    assert report == "Each of 2 shots reads its own text (WanModel)."
    _, listed, _ = run(captions=[clip.encode("a woman walks"), clip.encode("a woman runs and runs")])
    assert apart(sample(model, listed), sample(model, conditioning)) == 0


def test_shots_that_say_the_same_are_encoded_once():
    clip = Words()
    run(clip=[clip], shots=Shots(even=3, texts=("walks", "runs", "walks")))
    assert clip.asked == ["walks", "runs"]


def fact(conditioning: list, **facts) -> list:
    return [[conditioning[0][0], {**conditioning[0][1], **facts}]]


def test_what_all_captions_bring_holds_for_the_film():
    control, words = object(), torch.ones(1, 2)
    same = [fact(caption(i), control=control, mask=torch.ones(2), pooled_output=words * i) for i in range(2)]
    ((_, facts),) = run(captions=same)[1]
    assert facts["control"] is control and torch.equal(facts["mask"], torch.ones(2))


@pytest.mark.parametrize("shots", [Shots(), Shots(even=3)], ids=["one shot", "no text of its own"])
def test_one_text_for_all_is_an_ordinary_prompt(shots):
    model, conditioning, report = run(clip=[Words()], shots=Shots(even=shots.even, common="a woman"))
    assert not model.wrappers and KEY not in str(conditioning) and report == "One text for all."


def test_a_model_that_cannot_gets_the_joined_prompt_and_says_so():
    name = str(next(v for v in tiny.VARIANTS if v.cls == "HunyuanVideo"))
    clip = Words(64)
    model, conditioning, report = run(name, clip=[clip])
    assert clip.asked == ["a woman\nwalks\nruns and runs"]
    assert not model.wrappers and KEY not in str(conditioning)
    assert report.startswith("All 2 shots read all texts together: HunyuanVideo cannot")
    with pytest.raises(MoCError, match="connect clip instead of captions"):
        run(name, captions=[caption(0, channels=64)] * 2)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "connect clip"),
        ({"clip": [Words()], "captions": [caption(0)]}, "not both"),
        ({"clip": [Words()], "shots": Shots(even=2)}, "the shots have no prompts"),
        ({"captions": [caption(0)]}, "1 captions for 2 shots"),
        ({"captions": [caption(0), caption(1)], "shots": Shots()}, "2 captions for 1 shot:"),
        ({"captions": [caption(0), fact(caption(1), guidance=3.0)]}, "caption 2 does not bring the same guidance"),
        ({"captions": [fact(caption(0), mask=torch.ones(2)), fact(caption(1), mask=torch.zeros(2))]}, "the same mask"),
        ({"captions": [fact(caption(0), control=object()), fact(caption(1), control=object())]}, "same control"),
    ],
)
def test_what_is_missing_is_said(inputs, sentence):
    with pytest.raises(MoCError, match=sentence):
        run(**inputs)
