from __future__ import annotations

import pytest

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.replay import ReplayWindow


def accepted(window: ReplayWindow, counters: list[int]) -> list[int]:
    """Those of ``counters`` that the window takes, in order."""
    taken = []
    for counter in counters:
        try:
            window.accept(counter)
        except NotAllowedError:
            continue
        taken.append(counter)
    return taken


def test_each_counter_is_accepted_once() -> None:
    assert accepted(ReplayWindow(8), [0, 0, 1, 2, 1, 5, 4, 5, 3, 3]) == [0, 1, 2, 5, 4, 3]


def test_the_first_counter_may_be_any() -> None:
    assert accepted(ReplayWindow(8), [2**64 - 2**13 - 2, 2**64 - 2**13 - 3, 0]) == [
        2**64 - 2**13 - 2,
        2**64 - 2**13 - 3,
    ]


def test_a_counter_behind_the_window_is_too_old_seen_or_not() -> None:
    window = ReplayWindow(8)
    window.accept(8)
    with pytest.raises(NotAllowedError, match="too_old"):
        window.accept(0)
    window.accept(1)
    with pytest.raises(NotAllowedError, match="replayed"):
        window.accept(1)


@pytest.mark.parametrize("jump", [1, 2, 7, 8, 9, 15, 16, 17, 1000, 2**40])
def test_a_jump_forgets_what_it_skips_and_nothing_else(jump: int) -> None:
    window = ReplayWindow(8)
    seen = set(accepted(window, list(range(13))))
    highest = 12 + jump
    window.accept(highest)
    for counter in range(highest - 7, highest + 1):
        taken = accepted(window, [counter]) == [counter]
        assert taken == (counter not in seen and counter != highest), counter


def test_a_refused_counter_changes_nothing() -> None:
    window = ReplayWindow(8)
    accepted(window, [0, 20])
    for counter in (0, 12, 20):
        with pytest.raises(NotAllowedError):
            window.accept(counter)
    assert window.highest == 20
    assert accepted(window, [13, 19, 21]) == [13, 19, 21]


def test_checking_accepts_nothing() -> None:
    window = ReplayWindow(8)
    window.check(3)
    window.accept(3)
    with pytest.raises(NotAllowedError, match="replayed"):
        window.check(3)
    assert window.highest == 3


@pytest.mark.parametrize("size", [0, -8, 3, 12])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ReplayWindow(size)
