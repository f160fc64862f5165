from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyphonic.loadgen.latency import RESOLUTION, Latencies, Tally


@given(st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=200), st.sampled_from([50.0, 90.0, 99.0, 100.0]))
def test_a_percentile_is_exact_to_the_width_of_a_bucket(durations: list[float], percent: float) -> None:
    latencies = Latencies()
    for duration in durations:
        latencies.add(duration)
    rank = max(0, -int(-len(durations) * percent // 100) - 1)
    exact = sorted(durations)[rank]
    assert exact * 0.999 <= latencies.percentile(percent) <= exact * (1 + RESOLUTION) * 1.001


def test_without_durations_every_percentile_is_zero() -> None:
    assert Latencies().percentile(99) == 0.0


@pytest.mark.parametrize("duration", [0.0, 1e-9, 1e9])
def test_extremes_find_a_bucket(duration: float) -> None:
    latencies = Latencies()
    latencies.add(duration)
    assert latencies.total == 1
    assert latencies.longest == duration


def test_a_report_has_rates_per_second_and_latencies_in_milliseconds() -> None:
    tally = Tally()
    tally.started = 4
    for _ in range(4):
        tally.latencies.add(0.010)
    report = tally.report(2.0)
    assert report.rate == 2.0
    assert report.p50_ms == pytest.approx(10.0, rel=RESOLUTION)
    assert report.max_ms == 10.0
