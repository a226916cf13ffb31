"""Writes what the documentation says of models: python tests/host/table.py, in an environment that can start ComfyUI.

It comes from what adapters declare, from the time rules and from the rows of the host tests.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

if "mixture_of_contexts" not in sys.modules:
    import conftest  # noqa: F401 - loads the pack

from mixture_of_contexts.moc.host.adapters import ADAPTERS, Adapter
from mixture_of_contexts.moc.shots.time_rules import EVERY_FRAME, FAMILIES, TimeRule
from variants import VARIANTS, Variant

REPO = Path(__file__).resolve().parent.parent.parent
OF_EVERY_FRAME = "AnimateDiff, Stable Video Diffusion"
KINDS = {"text": "text", "reference": "references", "audio": "audio"}
ABOVE = """# Models

Written by `tests/host/table.py` from the table of the host tests; do not edit it by hand.

Every row is tested with a tiny random model of ComfyUI's own classes, on every version of ComfyUI named from the row's
first one on: choosing every chunk gives the unpatched result, every video self-attention is routed exactly once in a
forward pass and nothing else is, the video stands where its content is, blocks keep their numbers, and the attention
of other packs gets what MoC leaves dense.

*Since* is the first of the tested versions (0.3.75 and 0.30.0) that has the model. *Beside the video* are the other
tokens in the video's sequence: text and audio are always seen, everything else can be chosen like a chunk of the video
or is always seen, by the setting `references`. *Windows* is the first tested version whose context windows work here.

| Model | Use | Since | Beside the video | Windows | |
|---|---|---|---|---|---|
"""
BELOW = """
## What runs dense

The report of MoC Routing Heatmap says so, with the reason.

- A model that is not in the table, and any number of tokens that its row does not explain.
- Attention masks, except one that only hides text: padding is left out of the sequence, which is exact.
- LTX guides with a strength other than 1, or with a mask: the model weakens single tokens for them.
- Wan with the `ar_video` sampler, Wan S2V in ComfyUI 0.3.75, and SeedVR2: ComfyUI does not hand out their attention.

## Other versions of ComfyUI

The host tests were also run by hand on 0.33.0: all pass, and so does the demo. On 0.8.0, 0.19.3 and 0.22.0, with the
models of 0.3.75, all pass but two kinds: training in 0.8.0, which does not work without MoC either (its RoPE has no
gradient), and the node for several devices in 0.22.0, which takes no CPU for one. The browser tests pass with front end
1.58.1 (November 2026) as well.

Later releases were not at hand as a whole. What 0.34 to 0.38 changed about attention and the models above was read in
their sources, and is tested with stand-ins (`tests/host/test_newer.py`, `test_recording.py`):

- MiniMax H3 and LTX-2 record what a forward pass allocates, block by block, and give the next pass the same places
  ("Comfy Compiler", 0.34). MoC's tables and counts live longer than a block, so it pauses the recording for all its own
  work, as ComfyUI's own sparse attention does. The recorder (comfy-aimdo) also hung for ever on first calls, with
  kernels still to compile: it runs Python within an allocation, and garbage that was collected there waited for the
  allocation's own lock. So MoC keeps the collector off while it works and collects what compiling has left itself
  ([what happens, for the owners of comfy-aimdo](aimdo-report.md)). `tests/gpu/check_recording.py` asks a GPU about all
  of this. Should it fail, `--disable-comfy-compiler` turns the recording off.
- Keyframes of MiniMax H3 may bring audio: always seen, like all audio.
- ComfyUI's own sparse attention takes the place of MiniMax H3's attention as a whole; with both, the report of MoC says
  that no video self-attention reached MoC. Use one of them.
- A checkpoint that names a kernel for its attention (INT8) loses it where any attention override is on, MoC's too: what
  MoC leaves dense runs ComfyUI's usual attention.
- Kandinsky 6 and Prism are not in the table and run dense.
"""


def line(variant: Variant) -> str:
    beside = dict.fromkeys(KINDS[kind] for kind, _ in variant.before + variant.after)
    cells = (
        variant.model,
        variant.name,
        variant.since,
        ", ".join(beside) or "nothing",
        max(variant.windows, variant.since, key=version) if variant.windows else "no",
        variant.note,
    )
    return "| " + " | ".join(cells) + " |\n"


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def page() -> str:
    return ABOVE + "".join(line(variant) for variant in VARIANTS) + BELOW


def families(adapters: Iterable[Adapter]) -> str:
    """Their names in the order of the time rules, as a list in a sentence."""
    ordered = sorted(adapters, key=lambda adapter: list(FAMILIES).index(adapter.time_rule))
    names: dict[str, str] = {}
    for adapter in ordered:
        names[adapter.name] = names.get(adapter.name) or adapter.covers
    *most, last = [f"{name} {covers}".strip() for name, covers in names.items()]
    return "\n".join(textwrap.wrap(f"{', '.join(most)} and {last}.", 120, break_on_hyphens=False)) + "\n"


def time_rules() -> str:
    """Families of one rule in one row, and where their first latent frames begin."""
    rows: dict[TimeRule, list[str]] = {}
    for name, rule in FAMILIES.items():
        rows.setdefault(rule, []).append(f"{name} ({OF_EVERY_FRAME})" if rule == EVERY_FRAME else name)
    cells = (
        (
            ", ".join(names),
            "n" if rule == EVERY_FRAME else rule.name,
            ", ".join(str(rule.frames(i)) for i in range(8 if len(rule.repeat) > 1 else 6)),
        )
        for rule, names in rows.items()
    )
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def snapping() -> str:
    """What a rule does to cuts and lengths, a line for every family: JavaScript has to do the same."""
    lines = []
    for name, rule in FAMILIES.items():
        row = {
            "rule": asdict(rule),
            "name": rule.name,
            "borders": [rule.frames(latent) for latent in range(max(20, rule.latent_of(64) + 1))],
            "cuts_1_to_60": [rule.nearest(cut)[1] for cut in range(1, 61)],
            "lengths_1_to_60": [rule.whole(frames) for frames in range(1, 61)],
        }
        lines.append(f"  {json.dumps(name)}: {json.dumps(row)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def between(path: str, start: str, end: str, text: str) -> str:
    """A page with other text between the first `start` and the next `end`."""
    before, _, rest = (REPO / path).read_text(encoding="utf-8").partition(start)
    _, _, after = rest.partition(end)
    assert after, f"{path} has no {start!r} and {end!r}"
    return before + start + text + end + after


def pages() -> dict[str, str]:
    """Every file that is written, or partly written, and what it has to say."""
    by_shot = [adapter for adapter in ADAPTERS.values() if adapter.text == "cross"]
    rules = (
        "| family | film lengths | the first latent frames begin at |\n|---|---|---|\n",
        "\n`moc/shots/time_rules.py`",
    )
    return {
        "docs/models.md": page(),
        "README.md": between("README.md", "## Models\n\n", "**[The table", families(ADAPTERS.values())),
        "docs/shots.md": between("docs/shots.md", *rules, time_rules()),
        "js/docs/MoCShotConditioning.md": between(
            "js/docs/MoCShotConditioning.md",
            "its shot's text and no other:\n",
            "The result is exactly",
            families(by_shot),
        ),
        "tests/js/tables/snapping.json": snapping(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        (REPO / path).write_text(text, encoding="utf-8")
