"""The schedule of a bad wire: the same seed, the same bad day."""

from __future__ import annotations

import itertools

import pytest

from cyphonic.lab.forwarder import Schedule


def test_without_settings_every_frame_goes_on_at_once() -> None:
    assert [Schedule().times(now) for now in (1.0, 2.0)] == [[1.0], [2.0]]


def test_the_same_seed_makes_the_same_schedule() -> None:
    first, second, other = (
        Schedule(delay=0.1, jitter=0.05, reorder=0.2, duplicate=0.2, seed=seed) for seed in (3, 3, 4)
    )
    times = [now / 100 for now in range(200)]
    assert [first.times(now) for now in times] == [second.times(now) for now in times]
    assert [first.times(now) for now in times] != [other.times(now) for now in times]


def test_jitter_varies_the_delay_and_keeps_the_order() -> None:
    schedule = Schedule(delay=0.1, jitter=0.05)
    due = [schedule.times(now / 1000)[0] for now in range(500)]
    assert due == sorted(due)
    assert all(due[now] - now / 1000 >= 0.05 for now in range(500))


def test_a_reordered_frame_lets_others_overtake_it() -> None:
    schedule = Schedule(delay=0.01, reorder=0.1)
    due = [schedule.times(now / 1000)[0] for now in range(500)]
    overtaken = sum(later < earlier for earlier, later in itertools.pairwise(due))
    assert 20 <= overtaken <= 80


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_a_duplicated_frame_is_due_twice(part: float) -> None:
    assert len(Schedule(duplicate=part).times(0.0)) == 1 + part
