from __future__ import annotations

from cyphonic.protocol.relay_choice import relay_cost
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.registration import UNANSWERED

FOUR, SIX = Endpoint("192.0.2.1", 7703), Endpoint("2001:db8::1", 7703)


def test_the_sum_of_both_round_trips_counts() -> None:
    assert relay_cost([FOUR], 0.0, [{FOUR: 10}, {FOUR: 25}]) == 35


def test_the_better_family_of_each_end_counts() -> None:
    assert relay_cost([FOUR, SIX], 0.0, [{FOUR: 10, SIX: 8}, {SIX: 30, FOUR: UNANSWERED}]) == 38


def test_a_measured_relay_is_better_than_an_unknown_one_and_an_unknown_one_than_a_silent_one() -> None:
    measured = relay_cost([FOUR], 0.0, [{FOUR: 200}, {FOUR: 200}])
    unknown = relay_cost([FOUR], 0.0, [{}, {}])
    silent = relay_cost([FOUR], 0.0, [{FOUR: UNANSWERED}, {FOUR: 1}])
    assert measured < unknown < silent


def test_load_is_a_detour_and_a_full_relay_is_taken_last_but_before_a_silent_one() -> None:
    near = [{FOUR: 5}, {FOUR: 5}]
    assert relay_cost([FOUR], 0.0, near) < relay_cost([FOUR], 0.5, near) < relay_cost([FOUR], 0.0, [{}, {}])
    full = relay_cost([FOUR], 1.0, near)
    assert relay_cost([FOUR], 0.0, [{}, {}]) < full < relay_cost([FOUR], 0.0, [{FOUR: UNANSWERED}, {FOUR: 5}])
