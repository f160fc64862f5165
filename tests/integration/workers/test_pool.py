"""A worker thread between a real pipe and a real Redis."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyphonic.pipeline import FrontendPipe, WorkerPipe, ipc_endpoint, new_context
from cyphonic.state import registry
from cyphonic.state.fleet import FrontendMember, announce, read_fleet
from cyphonic.state.store import Store, StoreConfig
from cyphonic.wire.header import MessageType
from cyphonic.wire.job import Batch, Job, Report, Service
from cyphonic.wire.login import LoginOutcome
from cyphonic.workers.pool import WorkerThread
from tests.redis_server import RedisServer
from tests.region import AS_ENDPOINT, NMS_ENDPOINT, FakeNode, Region, internal

DEADLINE = 10.0
BOTH = frozenset({Service.AS, Service.NMS})


class Bench:
    """A frontend's end of the pipe, played by the test, and worker threads at the other."""

    def __init__(self, region: Region, redis: RedisServer, directory: Path, stack: contextlib.ExitStack) -> None:
        self.region = region
        self._redis = redis
        self._directory = directory
        self._stack = stack
        self._context = new_context()
        stack.callback(self._context.destroy, linger=0)
        self.pipe = FrontendPipe(self._context, ipc_endpoint(directory, "f"))
        stack.callback(self.pipe.close)
        self.reports: list[Report] = []
        self._numbers: dict[str, int] = {}
        self.announce()

    def announce(self) -> None:
        bound = [AS_ENDPOINT, NMS_ENDPOINT]
        member = FrontendMember("f", self.pipe.endpoint, b"", bound[:1], bound[1:], bound)
        announce(self.region.store, member, time.time() + 60)  # it will not go silent during the test

    def start(self, name: str) -> tuple[WorkerThread, threading.Thread]:
        pipe = WorkerPipe(self._context, name, BOTH, ipc_endpoint(self._directory, name))
        config = StoreConfig(self._redis.config.url, timeout=0.4)
        worker = WorkerThread(pipe, Store(config), self.region.dispatcher(), BOTH, drain=0.5)
        worker.begin()
        running = threading.Thread(target=worker.run)
        running.start()

        def end() -> None:
            worker.stop()
            running.join(DEADLINE)

        self._stack.callback(end)
        return worker, running

    def wait(self, condition: Callable[[Report], bool]) -> Report:
        """Poll the pipe until a report fits."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            for report in self.pipe.reports():
                self.pipe.connect(report.worker, report.endpoint)
                if condition(report):
                    return report
            time.sleep(0.005)  # polls a real socket, with a deadline
        raise AssertionError("no such report")

    def work(self, worker: str, *jobs: Job) -> Report:
        """Push one batch; the report that completes it."""
        number = self._numbers[worker] = self._numbers.get(worker, 0) + 1
        assert self.pipe.push(worker, Batch("f", number, list(jobs)))
        return self.wait(lambda report: report.worker == worker and number in report.completed)


@pytest.fixture
def bench(store: Store, redis_server: RedisServer) -> Iterator[Bench]:
    region = Region(store)
    region.wall = time.time()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cyphonic-")))
        yield Bench(region, redis_server, directory, stack)


def a_login(bench: Bench) -> tuple[FakeNode, object, Job]:
    node = FakeNode(bench.region, "alice", AS_ENDPOINT)
    initiator, job = node.login_job(bench.region.enrolment_key())
    return node, initiator, job


def test_a_login_goes_from_worker_to_worker_and_is_answered(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.start(name)
        bench.wait(lambda report, name=name: report.worker == name and report.credit > 0)  # type: ignore[misc]
    node, initiator, job = a_login(bench)
    distribution = bench.work("a", job).forwards
    ack = bench.work("b", internal(distribution[0])).forwards
    (answer,) = bench.work("a", internal(ack[0])).sends
    assert node.accept(initiator.read_response(answer.datagram)) is LoginOutcome.ACCEPTED  # type: ignore[attr-defined]


def test_a_worker_that_is_gone_is_replaced_by_another_in_the_middle(bench: Bench) -> None:
    first, running = bench.start("a")
    bench.wait(lambda report: report.credit > 0)
    _, initiator, job = a_login(bench)
    distribution = bench.work("a", job).forwards
    first.stop()
    running.join(DEADLINE)
    bench.start("b")
    bench.wait(lambda report: report.worker == "b")
    ack = bench.work("b", internal(distribution[0])).forwards
    (answer,) = bench.work("b", internal(ack[0])).sends
    assert initiator.read_response(answer.datagram).outcome == 0  # type: ignore[attr-defined]


def test_a_batch_during_an_absence_of_redis_is_completed_without_answer_and_works_later(
    bench: Bench, redis_server: RedisServer
) -> None:
    worker, _ = bench.start("a")
    bench.wait(lambda report: report.credit > 0)
    _, _, job = a_login(bench)
    redis_server.stop()
    try:
        report = bench.work("a", job)
    finally:
        redis_server.start()
    assert not report.forwards
    assert worker.drops["store_unavailable"] == 1
    assert len(bench.work("a", job).forwards) == 1


def test_a_leaving_worker_says_so_and_leaves_the_fleet(bench: Bench) -> None:
    worker, running = bench.start("a")
    bench.wait(lambda report: report.credit > 0)
    assert [member.instance for member in read_fleet(bench.region.store).workers] == ["a"]
    worker.stop()
    bench.wait(lambda report: report.services == [])
    running.join(DEADLINE)
    assert not running.is_alive()
    assert read_fleet(bench.region.store).workers == []


def test_a_revocation_is_pushed_without_anybody_asking(bench: Bench) -> None:
    node = FakeNode(bench.region, "alice", AS_ENDPOINT, stamp=time.time_ns())
    node.log_in(bench.region.enrolment_key())
    node.register()
    registry.revoke_node(bench.region.store, "alice", wall=time.time())
    bench.start("a")
    report = bench.wait(lambda report: bool(report.sends))
    assert report.sends[0].datagram[0] == MessageType.PATH_REVOCATION
    assert os.fsencode(report.sends[0].route.node_host) == os.fsencode(node.endpoint.host)
