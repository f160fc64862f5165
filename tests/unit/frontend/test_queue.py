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
