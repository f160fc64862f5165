from cyphonic.frontend.credits import Credits
from cyphonic.wire.header import MessageType
from cyphonic.wire.job import Job, Origin, Report, Route, Service

ROUTE = Route("192.0.2.1", 7702, "198.51.100.1", 1)
JOBS = [Job(bytes([MessageType.KEEP_ALIVE]), Origin.UDP, ROUTE)]
NMS = frozenset({int(Service.NMS)})


def report(worker: str, credit: int, *completed: int, services: list[int] | None = None) -> Report:
    return Report(worker, f"ipc://{worker}", b"", services or [0, 1], credit, list(completed), [], [])


def push(book: Credits, now: float, worker: str | None = None) -> tuple[str, int]:
    chosen = book.workers[worker] if worker else book.pick(NMS)
    assert chosen is not None
    return chosen.instance, book.assign(chosen, JOBS, now)


def retried(book: Credits, now: float) -> str | None:
    found = book.next_retry(now)
    if found is None:
        return None
    book.assign(found[0], found[1].jobs, now, retry=True)
    return found[0].instance


def test_a_worker_gets_no_more_than_its_credit() -> None:
    book = Credits()
    assert book.handle_report(report("a", 2), 0.0)
    assert [push(book, 0.0), push(book, 0.0)] == [("a", 1), ("a", 2)]
    assert book.pick(NMS) is None
    book.handle_report(report("a", 3, 1), 0.1)
    assert push(book, 0.1) == ("a", 3)
    assert book.pick(NMS) is None


def test_an_old_or_repeated_report_changes_nothing() -> None:
    book = Credits()
    book.handle_report(report("a", 5), 0.0)
    for _ in range(3):
        assert not book.handle_report(report("a", 2), 0.0)
    assert book.workers["a"].room == 5


def test_work_is_spread_over_workers_with_room() -> None:
    book = Credits()
    for name in "abc":
        book.handle_report(report(name, 2), 0.0)
    assert {push(book, 0.0)[0] for _ in range(3)} == {"a", "b", "c"}


def test_a_worker_that_does_not_serve_it_is_not_picked() -> None:
    book = Credits()
    book.handle_report(report("a", 2, services=[int(Service.AS)]), 0.0)
    assert book.pick(NMS) is None
    assert book.living_services == {int(Service.AS)}


def test_a_worker_that_leaves_finishes_what_it_has_and_gets_no_more() -> None:
    book = Credits()
    book.handle_report(report("a", 5), 0.0)
    push(book, 0.0)
    leaving = Report("a", "ipc://a", b"", [], 5, [], [], [])
    book.handle_report(leaving, 0.1)
    assert book.pick(NMS) is None
    assert book.living_services == frozenset()
    assert book.in_flight == 1
    book.handle_report(Report("a", "ipc://a", b"", [], 5, [1], [], []), 0.2)
    assert book.in_flight == 0


def test_a_late_batch_goes_to_another_worker_once() -> None:
    book = Credits()
    book.handle_report(report("a", 2), 0.0)
    push(book, 0.0, "a")
    book.handle_report(report("b", 2), 0.0)
    push(book, 0.0, "b")
    book.handle_report(report("b", 3, 1), 0.05)
    book.handle_timeout(0.09)
    assert retried(book, 0.09) is None
    book.handle_timeout(0.12)
    assert retried(book, 0.12) == "b"
    book.handle_report(report("a", 2), 0.3)
    book.handle_report(report("b", 3), 0.3)
    book.handle_timeout(0.3)
    assert retried(book, 0.3) is None


def test_nothing_is_given_away_when_nobody_makes_progress() -> None:
    book = Credits()
    for name in "ab":
        book.handle_report(report(name, 2), 0.0)
        push(book, 0.0, name)
    book.handle_timeout(0.5)
    assert retried(book, 0.5) is None


def test_at_most_one_batch_in_twenty_is_given_away_for_being_late() -> None:
    book = Credits()
    book.handle_report(report("slow", 1000), 0.0)
    book.handle_report(report("fast", 1000), 0.0)
    for _ in range(200):
        push(book, 0.0, "slow")
    for _ in range(100):
        push(book, 0.0, "fast")
    book.handle_report(report("fast", 1000, *range(1, 101)), 0.05)
    book.handle_timeout(0.2)
    given = 0
    while retried(book, 0.2) is not None:
        given += 1
    assert given == 100 // 20 + 8


def test_a_batch_is_not_late_while_all_take_that_long() -> None:
    """Overload: each batch takes 150 ms, and doing any of them twice would only make it worse."""
    book = Credits()
    for name in "ab":
        book.handle_report(report(name, 1000), 0.0)
    now = 0.0
    for _ in range(100):
        pushed = [push(book, now, name) for name in "ab"]
        now += 0.15
        for name, number in pushed:
            book.handle_report(report(name, 1000, number), now)
    stuck = push(book, now, "a")
    other = push(book, now, "b")
    book.handle_timeout(now + 0.3)
    book.handle_report(report("b", 1000, other[1]), now + 0.3)
    assert retried(book, now + 0.3) is None
    book.handle_timeout(now + 0.8)
    assert retried(book, now + 0.8) == "b", stuck


def test_all_that_a_dead_worker_owes_goes_to_others_once() -> None:
    book = Credits()
    book.handle_report(report("a", 20), 0.0)
    for _ in range(20):
        push(book, 0.0, "a")
    book.handle_report(report("b", 50), 1.4)
    assert book.handle_timeout(1.6) == ["a"]
    assert [retried(book, 1.6) for _ in range(21)] == ["b"] * 20 + [None]
    book.handle_report(report("c", 50), 3.0)
    assert book.handle_timeout(3.2) == ["b"]
    assert retried(book, 3.2) is None


def test_a_batch_completed_after_all_is_not_given_away() -> None:
    book = Credits()
    book.handle_report(report("a", 1), 0.0)
    push(book, 0.0)
    book.handle_timeout(1.6)
    book.handle_report(report("a", 2), 1.7)
    assert retried(book, 1.7) is None, "the only other worker is the one that owes it"
    push(book, 1.7)
    book.handle_report(report("a", 3, 1, 2), 1.8)
    book.handle_report(report("b", 1), 1.8)
    assert retried(book, 1.8) == "b"  # it was dead: what it says of before counts no more


def test_a_batch_that_nobody_can_take_is_dropped_and_counted() -> None:
    book = Credits()
    book.handle_report(report("a", 1), 0.0)
    push(book, 0.0)
    book.handle_timeout(1.6)
    assert retried(book, 2.2) is None
    assert book.drops == {"redelivery_deadline": 1}


def test_a_worker_that_was_only_stopped_goes_on_with_its_numbers() -> None:
    book = Credits()
    book.handle_report(report("a", 2), 0.0)
    push(book, 0.0)
    assert book.handle_timeout(2.0) == ["a"]
    assert book.pick(NMS) is None
    assert book.handle_report(report("a", 3), 3.0), "open a way to it again"
    assert push(book, 3.0) == ("a", 2)


def test_a_worker_that_is_silent_about_a_batch_is_asked() -> None:
    book = Credits()
    book.handle_report(report("a", 1), 0.0)
    push(book, 0.0)
    assert book.probes(0.3) == []
    assert book.probes(0.6) == [("a", 1)]
    assert book.probes(0.7) == []
    assert book.probes(1.2) == [("a", 1)]


def test_the_dead_are_forgotten_after_ten_minutes() -> None:
    book = Credits()
    book.handle_report(report("a", 1), 0.0)
    book.handle_timeout(601.0)
    assert book.workers == {}


def test_a_worker_that_leaves_gets_no_more() -> None:
    book = Credits()
    book.handle_report(report("a", 2), 0.0)
    push(book, 0.0)
    assert not book.handle_report(Report("a", "ipc://a", b"", [], 2, [1], [], []), 0.1)
    assert book.pick(NMS) is None
    assert book.living_services == frozenset()
    assert book.in_flight == 0
    assert book.probes(5.0) == []
