"""What can be chosen by name, in sentences: every preset, rule, descriptor, tail ... says beside its definition what it
is, and tooltips, the help page and docs/routing.md are put together from that (`tests/tools/tables.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from ...moc.config import (
    BREAK_EVEN,
    CHOOSING,
    CURVES,
    DESCRIPTORS,
    LISTS,
    NAMED,
    OWN,
    PRECISIONS,
    QUALITIES,
    REFERENCES,
    RULES,
    STATIC,
    TAILS,
)
from ...moc.methods import METHODS

ABOUT = {
    "own": "What every token sees without choosing it.",
    "descriptor": "What a chunk is judged by.",
    "tail": "What becomes of chunks that are not chosen.",
    "memory": "What all others always see of every shot, whatever the routing chooses.",
    "references": "Reference images or clips inside the sequence.",
    "rule": "How many chunks are enough.",
    "lists": "Which chunks neighbouring tokens read.",
    "break_even": "How a GPU knows whether routing is faster than full attention.",
    "curve": "How much of the budget is spent as the noise falls from 1 to 0. Late steps lose least.",
    "precision": "In how many bits tokens are compared with those that they read.",
    "choosing": "Which steps choose. The others take what was chosen last, which is faster and takes memory; the "
    "report tells how much.",
}
MORE = {
    "own": "With frame, window adds neighbouring frames.",
    "memory": "memory_tokens says how many tokens are the first.",
    "break_even": "Counts where min_tokens is 0. The report tells the times.",
    "curve": "Counts for budgets of top-k and density, not for top_p and beta.",
    "precision": "What is chosen stays the same. Training runs in 16 bits. The report tells which ran, and why not 8.",
    "choosing": "The first two steps always choose; so does every step of a sampler that calls the model more than once "
    "a step, and where memory is short.",
    "rule": "With all but top-k choosing takes longer; MoC Probe can say whether they pay.",
}


def choices_of(name: str) -> Mapping[str, str]:
    """(choice: sentence) of an input, in the order of its combo box."""
    if name == "rule":
        return {rule: entry.sentence for rule, entry in RULES.items()}
    if name == "descriptor":
        return {descriptor: entry.sentence for descriptor, entry in DESCRIPTORS.items()}
    if name == "curve":
        return {curve: entry.sentence for curve, entry in CURVES.items()}
    if name == "choosing":
        return {choosing: entry.sentence for choosing, entry in CHOOSING.items()}
    plain = {"own": OWN, "tail": TAILS, "memory": STATIC, "references": REFERENCES, "lists": LISTS}
    plain |= {"break_even": BREAK_EVEN, "precision": PRECISIONS}
    return plain[name]


def tell_choices(name: str) -> str:
    """A tooltip."""
    told = (f"{choice}: {sentence}." for choice, sentence in choices_of(name).items())
    return " ".join(filter(None, (ABOUT[name], *told, MORE.get(name))))


def tell_presets() -> str:
    """A tooltip."""
    told = (f"{name}: {preset.sees}; {preset.use}." for name, preset in NAMED.items())
    return " ".join(("What every token sees.", *told))


def tell_qualities() -> str:
    """A tooltip."""
    told = (f"{name}: {quality.sentence}." for name, quality in QUALITIES.items())
    where = "Measured at 720p on an H200, attention alone."
    return " ".join(("All settings in one, where no routing is connected.", *told, where))


def tell_methods() -> str:
    """A tooltip."""
    told = (f"{name}: {method.sees}." for name, method in METHODS.items())
    return " ".join(("A published method, as its authors set it, in place of the preset.", *told))


def tell_probed() -> str:
    """A tooltip: what the probe compares besides top-k by the usual descriptors."""
    descriptors = [name for name, kind in DESCRIPTORS.items() if not kind.probed and kind.several is None]
    rules = [name for name, rule in RULES.items() if rule.probed]
    return f"{_and(descriptors)} as descriptor and {_and(rules)} as rule"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
