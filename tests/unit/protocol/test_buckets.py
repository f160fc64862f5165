import random

from cyphonic.protocol.buckets import KnownSources, LoadGauge, SourceBuckets, TokenBucket
from cyphonic.wire.endpoint import Endpoint

CHANCE = random.Random(3).randbytes
HERE = Endpoint("198.51.100.1", 4000).encode()


def test_a_bucket_refills_at_its_rate_up_to_its_burst() -> None:
    bucket = TokenBucket(2.0, 4.0)
    assert [bucket.take(1, 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert [bucket.take(1, 1.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1, 100.0) for _ in range(5)] == [True] * 4 + [False]


def passed(buckets: SourceBuckets, *sources: str, now: float = 0.0) -> int:
    return sum(buckets.take(Endpoint(source, port).encode(), now) for port in range(1, 51) for source in sources)


def test_one_ipv4_address_has_one_bucket_whatever_its_ports() -> None:
    buckets = SourceBuckets(10.0, 20.0, CHANCE)
    assert passed(buckets, "198.51.100.1") == 20
    assert passed(buckets, "198.51.100.2") == 20
    assert passed(buckets, "198.51.100.1", now=1.0) == 10


def test_one_ipv6_64_has_one_bucket_whatever_its_interfaces() -> None:
    buckets = SourceBuckets(10.0, 20.0, CHANCE)
    assert passed(buckets, "2001:db8::1", "2001:db8::2", "2001:db8::ffff:1") == 20
    assert passed(buckets, "2001:db8:0:1::1") == 20


def test_a_million_sources_cost_no_memory_and_leave_others_their_bucket() -> None:
    buckets = SourceBuckets(100.0, 100.0, CHANCE, slots=4096)
    size = buckets._spent.buffer_info()
    for number in range(20_000):
        buckets.take(number.to_bytes(4, "big") + b"\0\1", number / 50_000)
    assert buckets._spent.buffer_info() == size
    assert buckets.take(HERE, 0.4)


def known() -> KnownSources:
    return KnownSources(1.0, 3.0, 75.0, CHANCE)


def test_a_source_is_known_from_an_answer_on_for_a_lease() -> None:
    sources = known()
    assert not sources.take(HERE, 0.0)
    sources.remember(HERE, 0.0)
    assert sources.take(HERE, 74.9)
    assert not sources.take(HERE, 75.1)


def test_another_port_of_a_known_address_is_not_known() -> None:
    sources = known()
    sources.remember(HERE, 0.0)
    assert not sources.take(Endpoint("198.51.100.1", 4001).encode(), 0.0)


def test_a_known_source_has_a_rate_that_answers_do_not_refill() -> None:
    sources = known()
    sources.remember(HERE, 0.0)
    assert [sources.take(HERE, 0.0) for _ in range(4)] == [True, True, True, False]
    sources.remember(HERE, 0.0)
    assert not sources.take(HERE, 0.0)
    assert sources.take(HERE, 1.0)


def test_a_load_begins_with_great_trouble_and_lasts_through_small() -> None:
    gauge = LoadGauge(calm=5.0)
    gauge.strained(0.0)
    assert not gauge.loaded(0.0)
    gauge.overloaded(1.0)
    gauge.strained(5.0)
    assert gauge.loaded(9.9)
    assert not gauge.loaded(10.0)
    gauge.strained(10.0)
    assert not gauge.loaded(10.0)
