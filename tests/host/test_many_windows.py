"""A long film in hundreds of context windows: each window's table is built once, and devices are not filled."""

from __future__ import annotations

import pytest
from mixture_of_contexts.moc.chunks.build import build_chunks
from mixture_of_contexts.moc.chunks.layout import TokenLayout
from mixture_of_contexts.moc.config import RoutingConfig
from mixture_of_contexts.moc.host import tables
from mixture_of_contexts.moc.host.tables import Tables

FRAMES, STARTS, ROUTING = 5, (0, 7, 300), RoutingConfig.of(own="frame")
WINDOW = FRAMES * 4  # tokens


def window(first: int) -> TokenLayout:
    return TokenLayout(WINDOW, (FRAMES, 2, 2), frame_ids=tuple(range(first, first + FRAMES)))


@pytest.fixture
def built(monkeypatch):
    found: list[TokenLayout] = []
    monkeypatch.setattr(tables, "build_chunks", lambda *a: found.append(a[0]) or build_chunks(*a))
    return found


def test_three_hundred_windows_build_their_tables_once_for_all_passes(built):
    held, windows = Tables(), [window(first) for first in range(300)]
    for _ in range(3):
        assert [held.get(layout, STARTS, ROUTING).layout for layout in windows] == windows
    assert built == windows


def test_what_was_not_asked_for_the_longest_leaves_the_devices_first_and_comes_back(built, monkeypatch):
    monkeypatch.setattr(tables, "MOST_TOKENS_NEAR", 10 * WINDOW)
    held, windows = Tables(), [window(first) for first in range(30)]
    asked = [held.get(layout, STARTS, ROUTING) for layout in windows[:10]]
    for table in asked:
        table.tensors("cpu")
        table.plans[1, "cpu"] = object()
    assert held.get(windows[0], STARTS, ROUTING) is asked[0]
    held.get(windows[10], STARTS, ROUTING)
    assert [bool(table._cache) for table in asked] == [bool(table.plans) for table in asked]
    assert [bool(table._cache) for table in asked] == [True, False, *[True] * 8]
    assert held.get(windows[1], STARTS, ROUTING) is asked[1] and len(built) == 11
    assert len(asked[1].tensors("cpu").order) == WINDOW


def test_there_is_an_end_to_it(built, monkeypatch):
    monkeypatch.setattr(tables, "MOST_TOKENS", 20 * WINDOW)
    held, windows = Tables(), [window(first) for first in range(21)]
    for layout in windows:
        held.get(layout, STARTS, ROUTING)
    held.get(windows[-1], STARTS, ROUTING)
    assert len(built) == 21
    held.get(windows[0], STARTS, ROUTING)
    assert len(built) == 22
