"""Timers as data."""

from __future__ import annotations

from cyphonic.protocol.timetable import Timetable


def test_actions_run_in_the_order_of_their_deadlines() -> None:
    table, ran = Timetable(), list[str]()
    table.set("b", 2.0, lambda *_: ran.append("b"))
    table.set("a", 1.0, lambda *_: ran.append("a"))
    table.set("c", 3.0, lambda *_: ran.append("c"))
    assert table.next_deadline() == 1.0
    table.run(2.0, 0.0)
    assert ran == ["a", "b"]
    assert table.next_deadline() == 3.0


def test_setting_a_key_again_replaces_its_deadline() -> None:
    table, ran = Timetable(), list[int]()
    table.set("a", 1.0, lambda *_: ran.append(1))
    table.set("a", 5.0, lambda *_: ran.append(2))
    table.run(1.0, 0.0)
    assert ran == []
    assert table.next_deadline() == 5.0


def test_a_key_that_an_action_clears_does_not_run() -> None:
    table, ran = Timetable(), list[str]()
    table.set("a", 1.0, lambda *_: table.clear("b"))
    table.set("b", 1.0, lambda *_: ran.append("b"))
    table.run(1.0, 0.0)
    assert ran == []
    assert table.next_deadline() is None


def test_what_an_action_sets_waits_for_the_next_run() -> None:
    table, ran = Timetable(), list[float]()
    table.set("a", 1.0, lambda now, _: table.set("a", now, lambda *_: ran.append(now)))
    table.run(1.0, 0.0)
    assert ran == []
    table.run(1.0, 0.0)
    assert ran == [1.0]


def test_superseded_entries_do_not_pile_up() -> None:
    table = Timetable()
    for turn in range(10_000):
        table.set("a", 1.0 + turn, lambda *_: None)
    assert len(table._heap) < 200
    assert table.next_deadline() == 10_000.0
