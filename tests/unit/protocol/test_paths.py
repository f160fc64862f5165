"""Which path is in use, and why it changes."""

from __future__ import annotations

import math
import random
from socket import AF_INET, AF_INET6

import pytest

from cyphonic.protocol.limits import PATH_CHECK_COUNT, PATH_CHECK_INTERVAL
from cyphonic.protocol.paths import MAX_LEARNED, PROBE_PATIENCE, Destination, PathKind, Paths
from cyphonic.wire.endpoint import Endpoint

DIRECT = Destination(Endpoint("192.0.2.1", 1))
OTHER = Destination(Endpoint("2001:db8::1", 1))
LAN = Destination(Endpoint("192.168.1.1", 1))
RELAYED = Destination(Endpoint("192.0.2.99", 1), b"\x10\0\0\0\0\0\0\1")


def answered(paths: Paths, now: float) -> list[Destination]:
    """Every probe that is due is acknowledged at once; where they went."""
    due = paths.checks_due(now)
    for number, destination in due:
        paths.acknowledged(number, destination, now)
    return [destination for _, destination in due]


def test_a_candidate_is_used_only_after_it_has_answered() -> None:
    paths = Paths(leads=True)
    paths.check(paths.offer(DIRECT, PathKind.DIRECT), 0.0)
    [(number, _)] = paths.checks_due(0.0)
    assert paths.current is None
    assert paths.acknowledged(number, OTHER, 0.1) is None
    assert paths.current is None
    paths.acknowledged(number, DIRECT, 0.1)
    assert paths.current == DIRECT
    assert paths.current_rtt == pytest.approx(0.1)


def test_an_unasked_acknowledgement_changes_nothing() -> None:
    paths = Paths(leads=True)
    paths.offer(DIRECT, PathKind.DIRECT)
    assert paths.acknowledged(17, DIRECT, 0.0) is None
    assert paths.current is None


def test_checks_are_paced_and_end() -> None:
    paths = Paths(leads=True)
    paths.check(paths.offer(DIRECT, PathKind.DIRECT), 0.0)
    sent, now = 0, 0.0
    while paths.next_deadline() < math.inf:
        assert paths.next_deadline() - now <= PATH_CHECK_INTERVAL + 1e-9
        now = paths.next_deadline()
        sent += len(paths.checks_due(now))
    assert sent == PATH_CHECK_COUNT


@pytest.mark.parametrize(("worse", "better"), [(RELAYED, DIRECT), (RELAYED, LAN), (DIRECT, LAN)])
def test_a_better_kind_replaces_a_worse_one_and_never_the_other_way_round(
    worse: Destination, better: Destination
) -> None:
    kinds = {RELAYED: PathKind.RELAYED, DIRECT: PathKind.DIRECT, LAN: PathKind.LAN}
    paths = Paths(leads=False)
    for destination in (worse, better):
        paths.offer(destination, kinds[destination])
    paths.use(worse, "first", 0.0)
    paths.check_better(0.0)
    assert answered(paths, 0.0) == [better]
    assert paths.current == better
    for candidate in paths.candidates():
        paths.check(candidate, 1.0)
    answered(paths, 1.0)
    assert paths.current == better


@pytest.mark.parametrize("seed", range(50))
def test_two_ends_on_two_equal_paths_agree_and_stay(seed: int) -> None:
    chance = random.Random(seed)
    ends = Paths(leads=True), Paths(leads=False)
    for end, first in zip(ends, (DIRECT, OTHER), strict=True):
        end.offer(DIRECT, PathKind.DIRECT)
        end.offer(OTHER, PathKind.DIRECT)
        end.use(first, "first", 0.0)
    changes = 0
    for step in range(1, 200):
        now = step * 0.05
        before = [end.current for end in ends]
        for end, peer in (ends, ends[::-1]):
            if chance.random() < 0.7:
                assert peer.current is not None
                end.heard(peer.current, now)
            answered(end, now)
            end.overdue(now)
        changes += before != [end.current for end in ends]
    assert ends[0].current == ends[1].current
    assert changes <= 2


def test_a_peer_that_moves_is_followed_once_its_new_place_answers() -> None:
    for leads in (True, False):
        paths = Paths(leads=leads)
        paths.use(DIRECT, "first", 0.0)
        moved = Destination(Endpoint("198.51.100.1", 9))
        paths.heard(moved, 1.0)
        assert paths.current == DIRECT
        assert moved in answered(paths, 1.0)
        assert paths.current == moved
        assert paths.why == "the peer moved"


def test_a_copied_datagram_from_elsewhere_moves_nothing() -> None:
    paths = Paths(leads=False)
    paths.use(DIRECT, "first", 0.0)
    paths.heard(Destination(Endpoint("203.0.113.66", 9)), 1.0)
    now = 1.0
    while paths.next_deadline() < 60.0:  # the thief cannot open the probes; the peer goes on answering
        now = max(now, paths.next_deadline())
        for number, destination in paths.checks_due(now):
            if destination == DIRECT:
                paths.acknowledged(number, destination, now)
        paths.overdue(now)
    assert paths.current == DIRECT
    assert not paths.silent


def test_a_silent_path_gives_way_to_any_that_answers() -> None:
    paths = Paths(leads=True)
    paths.offer(RELAYED, PathKind.RELAYED)
    paths.use(DIRECT, "first", 0.0)
    paths.probe_current(3.0)
    assert not paths.overdue(3.0 + PROBE_PATIENCE / 2)
    assert paths.overdue(3.0 + PROBE_PATIENCE)
    assert paths.silent
    paths.check_better(5.0)
    for number, destination in paths.checks_due(5.0):
        if destination == RELAYED:
            paths.acknowledged(number, destination, 5.1)
    assert paths.current == RELAYED
    assert paths.why == "the path before fell silent"


def test_a_peer_cannot_fill_the_table_from_many_sources() -> None:
    paths = Paths(leads=True)
    paths.use(DIRECT, "first", 0.0)
    for port in range(1, 1000):
        paths.heard(Destination(Endpoint("198.51.100.1", port)), float(port))
    assert len(paths.candidates()) <= MAX_LEARNED + 2
    assert any(candidate.destination == DIRECT for candidate in paths.candidates())


def test_a_withdrawn_path_in_use_counts_as_silent() -> None:
    paths = Paths(leads=True)
    paths.use(RELAYED, "first", 0.0)
    paths.withdraw(RELAYED)
    assert paths.silent


def test_a_path_is_settled_once_nothing_better_is_being_tried() -> None:
    paths = Paths(leads=True)
    paths.offer(DIRECT, PathKind.DIRECT)
    assert not paths.settled
    paths.use(RELAYED, "first", 0.0)
    paths.check_better(0.0)
    assert not paths.settled
    while paths.next_deadline() < math.inf:
        paths.checks_due(paths.next_deadline())
    assert paths.settled
    assert [candidate.destination for candidate in paths.better] == [DIRECT]
    paths.check(paths.offer(OTHER, PathKind.DIRECT), 10.0)
    assert not paths.settled
    answered(paths, 10.0)
    assert paths.settled
    assert paths.better == []


def test_a_datagram_that_was_on_the_way_is_no_answer() -> None:
    paths = Paths(leads=True)
    paths.offer(RELAYED, PathKind.RELAYED)
    paths.use(DIRECT, "first", 0.0)
    paths.probe_current(3.0)
    paths.heard(DIRECT, 3.05)
    assert paths.overdue(3.0 + PROBE_PATIENCE)
    assert not paths.answered_since(3.0)


def test_after_a_move_nothing_counts_as_verified_and_a_lost_family_is_silent_at_once() -> None:
    paths = Paths(leads=True)
    for destination in (DIRECT, OTHER):
        paths.offer(destination, PathKind.DIRECT)
    paths.use(DIRECT, "first", 0.0)
    paths.moved({AF_INET}, 1.0)
    assert not paths.silent
    assert [destination for _, destination in paths.checks_due(1.0)] == [DIRECT]
    paths.moved({AF_INET6}, 2.0)
    assert paths.silent
    assert answered(paths, 2.0) == [OTHER]
    assert paths.current == OTHER


def test_a_leader_follows_a_peer_that_left_the_path_in_use_for_one_that_the_cloud_named() -> None:
    paths = Paths(leads=True)
    paths.use(DIRECT, "first", 0.0)
    paths.heard(DIRECT, 0.9)
    paths.offer(OTHER, PathKind.DIRECT)
    paths.heard(OTHER, 1.0)
    answered(paths, 1.0)
    assert paths.current == OTHER


def test_a_place_that_never_answers_is_probed_a_limited_number_of_times_until_there_is_news() -> None:
    paths = Paths(leads=True)
    paths.use(RELAYED, "first", 0.0)
    victim = paths.offer(DIRECT, PathKind.DIRECT)

    def probes() -> int:
        sent = 0
        for step in range(400):
            paths.check(victim, step * 0.1)
            sent += sum(destination == DIRECT for _, destination in paths.checks_due(step * 0.1))
        return sent

    assert probes() == PATH_CHECK_COUNT
    assert probes() == 0
    paths.renew_checks()
    assert probes() == PATH_CHECK_COUNT


def test_a_way_through_a_relay_is_never_learned_from_a_datagram() -> None:
    paths = Paths(leads=False)
    paths.use(DIRECT, "first", 0.0)
    paths.heard(RELAYED, 1.0)
    assert [candidate.destination for candidate in paths.candidates()] == [DIRECT]
