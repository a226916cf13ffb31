"""8 bits inside the host: they reach the model, the choice stays, and the report tells which precision ran."""

from __future__ import annotations

import tiny
import torch
from mixture_of_contexts.moc.config import PRECISIONS, MoCSettings, RoutingConfig
from spies import routed

FEW = RoutingConfig.of(top_k=2, own="chunk", tile=(1, 1, 2), tail="pooled")


def test_8_bits_change_the_film_a_little_and_the_report_says_that_they_ran():
    films, kept, notes = {}, {}, {}
    for precision in PRECISIONS:
        model, trace = routed(tiny.load(), MoCSettings(FEW.changed(precision=precision)))
        films[precision] = tiny.sample(model, steps=1)
        kept[precision], notes[precision] = trace.records[0].chosen, trace.notes
    assert torch.equal(films["auto"], films["16 bits"]) and not notes["auto"] and not notes["16 bits"]
    off = (films["8 bits"] - films["auto"]).norm() / films["auto"].norm()
    assert 0 < off < 0.02 and notes["8 bits"] == ["routed in 8 bits, as asked"]
    assert torch.equal(kept["8 bits"], kept["auto"])  # of the first block, whose input is the same
