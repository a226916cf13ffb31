"""What the table claims beyond its single rows."""

from __future__ import annotations

import pytest
import table
from mixture_of_contexts.moc.host.adapters import ADAPTERS
from variants import VARIANTS


@pytest.mark.parametrize("path", table.pages())
def test_what_is_written_about_models_is_what_they_declare(path):
    assert (table.REPO / path).read_text(encoding="utf-8") == table.pages()[path], "run `python tests/host/table.py`"


def test_every_adapter_has_a_row_under_its_own_name():
    assert {(variant.cls, variant.model) for variant in VARIANTS} == {(c, a.name) for c, a in ADAPTERS.items()}


def test_names_are_unique():
    assert len({str(variant) for variant in VARIANTS}) == len(VARIANTS)
