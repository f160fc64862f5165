"""When a request is sent again, where to, and when it is given up."""

from __future__ import annotations

import random

import pytest

from cyphonic.protocol.limits import GIVE_UP_AFTER, LOGIN_RETRY_MAX, RESEND_AFTER, RESEND_JITTER
from cyphonic.protocol.retransmission import RETRY_BUDGET, Backoff, Retransmission, RetryBudget
from cyphonic.wire.endpoint import Endpoint

A, B, C = (Endpoint(f"192.0.2.{n}", 7001) for n in (1, 2, 3))


def _chance(seed: int = 0) -> random.Random:
    return random.Random(seed)


def _run(leg: Retransmission, now: float, until: float) -> list[tuple[float, Endpoint]]:
    sent = []
    while now < until and not leg.gave_up(now):
        sending = leg.due(now)
        if sending is not None:
            sent.append((now, sending[1]))
        assert leg.deadline > now
        now = leg.deadline
    return sent


@pytest.mark.parametrize("seed", range(20))
def test_sendings_follow_the_schedule_with_a_little_jitter(seed: int) -> None:
    sent = _run(Retransmission(b"x", [A, B], 100.0, _chance(seed).randbytes), 100.0, 200.0)
    assert len(sent) == len(RESEND_AFTER)
    for (time, _), after in zip(sent, RESEND_AFTER, strict=True):
        assert after <= time - 100 <= after * (1 + RESEND_JITTER)


def test_the_first_two_go_to_one_frontend_and_then_round_the_list() -> None:
    sent = _run(Retransmission(b"x", [A, B, C], 0.0, _chance().randbytes), 0.0, 100.0)
    assert [endpoint for _, endpoint in sent] == [A, A, B, C, A]


def test_a_leg_is_given_up_after_its_time_and_not_before() -> None:
    leg = Retransmission(b"x", [A], 5.0, _chance().randbytes)
    _run(leg, 5.0, 100.0)
    assert not leg.gave_up(5 + GIVE_UP_AFTER - 0.01)
    assert leg.gave_up(leg.deadline)
    assert leg.due(leg.deadline) is None


def test_a_late_driver_sends_once_for_all_that_it_missed() -> None:
    leg = Retransmission(b"x", [A, B], 0.0, _chance().randbytes)
    leg.due(0.0)
    assert leg.due(4.0) is not None
    assert leg.due(4.0) is None
    assert leg.deadline >= 7.5


def test_nothing_is_due_before_the_deadline() -> None:
    leg = Retransmission(b"x", [A], 0.0, _chance().randbytes)
    leg.due(0.0)
    assert leg.due(0.2) is None


def test_a_redirected_leg_sends_at_once_and_goes_on_in_time() -> None:
    leg = Retransmission(b"x", [A], 0.0, _chance().randbytes)
    leg.due(0.0)
    leg.redirect([B], 0.1)
    assert leg.deadline == 0.1
    assert leg.due(0.1) == (b"x", B)
    assert leg.deadline >= 0.5
    rest = _run(leg, leg.deadline, 100.0)
    assert len(rest) == len(RESEND_AFTER) - 1
    assert leg.gave_up(GIVE_UP_AFTER)


def test_redirecting_to_nowhere_changes_nothing() -> None:
    leg = Retransmission(b"x", [A], 0.0, _chance().randbytes)
    leg.redirect([], 0.0)
    assert leg.due(0.0) == (b"x", A)


def test_a_leg_without_destination_is_refused() -> None:
    with pytest.raises(ValueError, match="destination"):
        Retransmission(b"x", [], 0.0, _chance().randbytes)


def test_an_empty_budget_holds_resendings_back_but_never_the_first_sending() -> None:
    budget = RetryBudget()
    while budget.take(0.0):
        pass
    leg = Retransmission(b"x", [A], 0.0, _chance().randbytes, budget)
    assert leg.due(0.0) is not None
    for _ in range(RETRY_BUDGET):
        budget.take(0.5)
    first_deadline = leg.deadline
    while budget.take(first_deadline):
        pass
    assert leg.due(first_deadline) is None
    assert leg.deadline > first_deadline


def test_a_budget_fills_again_up_to_its_size() -> None:
    budget = RetryBudget()
    assert sum(budget.take(0.0) for _ in range(2 * RETRY_BUDGET)) == RETRY_BUDGET
    assert sum(budget.take(10_000.0) for _ in range(2 * RETRY_BUDGET)) == RETRY_BUDGET


def test_backoff_grows_to_its_maximum_and_starts_anew() -> None:
    backoff = Backoff(_chance().randbytes)
    delays = [backoff.draw() for _ in range(12)]
    assert 0.5 <= delays[0] <= 1
    assert LOGIN_RETRY_MAX / 2 <= delays[-1] <= LOGIN_RETRY_MAX
    backoff.reset()
    assert backoff.draw() <= 1
