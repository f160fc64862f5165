from __future__ import annotations

import pytest

from cyphonic.loadgen.scenario import MAX_BEGINNINGS, Pacer


def test_without_a_rate_the_window_is_kept_full() -> None:
    pacer = Pacer(0.0, 10, 5.0)
    assert pacer.due(3, 6.0) == [6.0] * 7
    assert pacer.due(10, 6.0) == []
    assert pacer.due(12, 6.0) == []
    assert pacer.next_deadline() is None


def test_a_rate_is_kept_whatever_is_under_way() -> None:
    pacer = Pacer(10.0, 1, 0.0)
    assert pacer.due(1000, 0.25) == pytest.approx([0.0, 0.1, 0.2])
    assert pacer.next_deadline() == pytest.approx(0.3)
    assert pacer.due(1000, 0.25) == []


def test_a_late_generator_catches_up_in_bounded_turns() -> None:
    pacer = Pacer(1000.0, 1, 0.0)
    assert len(pacer.due(0, 10.0)) == MAX_BEGINNINGS
    assert len(pacer.due(0, 10.0)) == MAX_BEGINNINGS
