from cyphonic.frontend.queue import JobQueue
from cyphonic.wire.header import MessageType
from cyphonic.wire.job import Job, Origin, Route, Service

BOTH = (Service.AS, Service.NMS)
ROUTE = Route("192.0.2.1", 7702, "198.51.100.1", 1)


def job(kind: MessageType, label: int = 0) -> Job:
    return Job(bytes([kind]) + label.to_bytes(4, "big"), Origin.UDP, ROUTE)


def kinds(jobs: list[Job]) -> list[MessageType]:
    return [MessageType(job.datagram[0]) for job in jobs]


def test_what_finishes_a_transaction_goes_before_what_starts_one() -> None:
    queue = JobQueue()
    queue.add(job(MessageType.DIRECTION_REQUEST), 0.0)
    queue.add(job(MessageType.ROUTE_DIRECTION_CONFIRMATION), 0.1)
    assert kinds(queue.take(BOTH, 64, 0.2)) == [
        MessageType.ROUTE_DIRECTION_CONFIRMATION,
        MessageType.DIRECTION_REQUEST,
    ]


def test_a_worker_gets_only_what_it_serves() -> None:
    queue = JobQueue()
    queue.add(job(MessageType.LOGIN_REQUEST), 0.0)
    queue.add(job(MessageType.KEEP_ALIVE), 0.0)
    assert queue.waiting((Service.AS,))
    assert kinds(queue.take((Service.AS,), 64, 0.0)) == [MessageType.LOGIN_REQUEST]
    assert not queue.waiting((Service.AS,))
    assert len(queue) == 1


def test_a_batch_has_a_limit_and_keeps_the_order() -> None:
    queue = JobQueue()
    jobs = [job(MessageType.KEEP_ALIVE, label) for label in range(100)]
    for each in jobs:
        queue.add(each, 0.0)
    assert queue.take(BOTH, 64, 0.0) + queue.take(BOTH, 64, 0.0) == jobs


def test_the_service_whose_oldest_job_waits_longest_goes_first() -> None:
    queue = JobQueue()
    queue.add(job(MessageType.KEEP_ALIVE), 0.0)
    queue.add(job(MessageType.LOGIN_REQUEST), 0.1)
    assert kinds(queue.take(BOTH, 1, 0.2)) == [MessageType.KEEP_ALIVE]


def test_what_waited_too_long_is_dropped_and_counted() -> None:
    queue = JobQueue(patience=0.5)
    queue.add(job(MessageType.KEEP_ALIVE), 0.0)
    queue.add(job(MessageType.KEEP_ALIVE), 0.3)
    queue.expire(0.6)
    assert len(queue) == 1
    assert queue.take(BOTH, 64, 1.0) == []
    assert queue.drops == {"queue_deadline": 2}
    assert len(queue) == 0


def test_a_full_queue_drops_the_newcomer_unless_it_finishes_something() -> None:
    queue = JobQueue(capacity=2)
    for label in range(3):
        queue.add(job(MessageType.KEEP_ALIVE, label), 0.0)
    queue.add(job(MessageType.KEY_DISTRIBUTION_ACK), 0.0)
    assert len(queue) == 2
    assert queue.drops == {"queue_full": 2}
    assert queue.take(BOTH, 64, 0.0) == [job(MessageType.KEY_DISTRIBUTION_ACK), job(MessageType.KEEP_ALIVE, 1)]


def test_known_nodes_go_before_strangers_who_cannot_pretend_to_finish_something() -> None:
    queue = JobQueue()
    stranger = job(MessageType.ROUTE_DIRECTION_CONFIRMATION, 1)
    queue.add(stranger, 0.0, known=False)
    queue.add(job(MessageType.KEEP_ALIVE), 0.1)
    assert queue.take(BOTH, 64, 0.2) == [job(MessageType.KEEP_ALIVE), stranger]


def test_strangers_have_half_of_the_places_and_give_them_to_known_nodes() -> None:
    dropped: list[tuple[Job, bool]] = []
    queue = JobQueue(capacity=4, on_drop=lambda job, known: dropped.append((job, known)))
    for label in range(3):
        queue.add(job(MessageType.LOGIN_REQUEST, label), 0.0, known=False)
    assert len(queue) == 2
    for label in range(4):
        queue.add(job(MessageType.KEEP_ALIVE, label), 0.0)
    assert kinds(queue.take(BOTH, 64, 0.0)) == [MessageType.KEEP_ALIVE] * 4
    strangers = [job(MessageType.LOGIN_REQUEST, label) for label in (2, 0, 1)]
    assert dropped == [(each, False) for each in strangers]
    assert queue.drops == {"queue_full": 3}


def test_an_eighth_of_every_batch_is_for_strangers_while_they_wait() -> None:
    queue = JobQueue()
    for label in range(100):
        queue.add(job(MessageType.KEEP_ALIVE, label), 0.0)
        queue.add(job(MessageType.LOGIN_REQUEST, label), 0.0, known=False)
    assert kinds(queue.take(BOTH, 64, 0.0)).count(MessageType.LOGIN_REQUEST) == 8
    assert len(queue) == 200 - 64


def test_who_waited_too_long_is_told_apart() -> None:
    dropped: list[bool] = []
    queue = JobQueue(patience=0.5, on_drop=lambda _job, known: dropped.append(known))
    queue.add(job(MessageType.KEEP_ALIVE), 0.0)
    queue.add(job(MessageType.LOGIN_REQUEST), 0.0, known=False)
    queue.expire(1.0)
    assert dropped == [True, False]
    queue.add(job(MessageType.LOGIN_REQUEST), 2.0, known=False)
    assert len(queue.take(BOTH, 64, 2.0)) == 1
