"""What a published method is here: parts, where they come from, and what its authors set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..config import MoCSettings


@dataclass(frozen=True)
class Method:
    """settings   what the name stands for: the authors' for Wan 2.1 14B where they give such, their dense steps and
               blocks included
    sees       what every token sees, without a capital letter and a full stop
    source     paper, arXiv id and section
    models     settings that the authors give for other models or releases, by name
    differs    what is not as in their paper or code, and why
    """

    settings: MoCSettings
    sees: str
    source: str
    models: Mapping[str, MoCSettings] = field(default_factory=dict)
    differs: str = ""
