"""What the table claims beyond its single rows."""

from __future__ import annotations

import table
from mixture_of_contexts.moc.host.adapters import ADAPTERS
from variants import VARIANTS


def test_the_page_about_models_is_current():
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run `python tests/host/table.py`"


def test_every_adapter_has_a_row():
    assert {variant.cls for variant in VARIANTS} == set(ADAPTERS)


def test_names_are_unique():
    assert len({str(variant) for variant in VARIANTS}) == len(VARIANTS)
