"""When silence becomes a doubt."""

from __future__ import annotations

import math

from cyphonic.protocol.liveness import LIVENESS_PROBE, Liveness


def test_who_sends_and_hears_nothing_doubts_until_something_comes() -> None:
    liveness = Liveness()
    liveness.awaits_answer(10.0)
    assert liveness.next_doubt(10.0) == 10.0 + LIVENESS_PROBE
    assert not liveness.doubtful(10.0 + LIVENESS_PROBE / 2)
    assert liveness.doubtful(10.0 + LIVENESS_PROBE)
    assert liveness.doubtful(11.0 + LIVENESS_PROBE)
    liveness.heard(12.0)
    assert not liveness.doubtful(99.0)
    assert liveness.next_doubt(12.0) == math.inf


def test_who_only_received_doubts_the_end_of_it_once() -> None:
    liveness = Liveness()
    liveness.heard(10.0)
    liveness.packet_received(10.0)
    assert liveness.next_doubt(10.0) == 10.0 + LIVENESS_PROBE
    assert liveness.doubtful(10.0 + LIVENESS_PROBE)
    assert not liveness.doubtful(20.0)
    assert liveness.next_doubt(20.0) == math.inf


def test_a_keepalive_alone_is_not_expected_to_go_on() -> None:
    liveness = Liveness()
    liveness.heard(10.0)
    assert not liveness.doubtful(99.0)
