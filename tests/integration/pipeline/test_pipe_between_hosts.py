"""The pipe over TCP: who holds the site's key works as on one host, everybody else does not get in."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import zmq

from cyphonic.errors import ConfigurationError
from cyphonic.pipeline import (
    BATCH_HIGH_WATER,
    MAX_MESSAGE,
    FrontendAddress,
    FrontendPipe,
    Pipeline,
    WorkerPipe,
    new_context,
)
from cyphonic.pipeline.curve import Curve
from cyphonic.protocol.keys import KeyPair
from cyphonic.wire.job import Batch, Job, Origin, Report, Route, Send

ROUTE = Route("192.0.2.1", 7702, "198.51.100.1", 1)
JOBS = [Job(b"job", Origin.UDP, ROUTE)]
ANY_PORT = "tcp://127.0.0.1:*"
ResultT = TypeVar("ResultT")


def until(attempt: Callable[[], ResultT]) -> ResultT:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if result := attempt():
            return result
        time.sleep(0.001)
    raise AssertionError("nothing came")


def curve(*others: KeyPair, own: KeyPair | None = None) -> Curve:
    own = own or KeyPair.generate(os.urandom)
    return Curve(own, frozenset({own.public, *(other.public for other in others)}))


class Hosts:
    """Each with a pipeline of its own, as processes on different hosts have."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory
        self.site = curve()

    def pipeline(self, who: Curve | None = None, setting: str = ANY_PORT) -> Pipeline:
        return self._stack.enter_context(Pipeline(setting, self._directory, who or self.site))

    def frontend(self, who: Curve | None = None, setting: str = ANY_PORT) -> FrontendPipe:
        pipe = self.pipeline(who, setting).frontend("f")
        self._stack.callback(pipe.close)
        return pipe

    def worker(self, who: Curve | None = None, setting: str = ANY_PORT) -> WorkerPipe:
        pipe = self.pipeline(who, setting).worker("w", [0, 1])
        self._stack.callback(pipe.close)
        return pipe


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(stack, tmp_path)


def address(pipe: FrontendPipe) -> FrontendAddress:
    return FrontendAddress("f", pipe.endpoint, frozenset({("192.0.2.1", 7702)}), pipe.curve_key)


def work(frontend: FrontendPipe, worker: WorkerPipe) -> None:
    """A batch there, a datagram back."""
    worker.update_fleet([address(frontend)], 0.0)
    report = until(frontend.reports)[0]
    assert frontend.connect(report.worker, report.endpoint, report.curve_key)
    frontend.push("w", Batch("f", 1, JOBS))
    batch = until(lambda: worker.poll(0.01, 0.0))[0]
    assert batch.jobs == JOBS
    worker.complete([batch], [Send(b"answer", ROUTE)])
    sends = until(lambda: [send for report in frontend.reports() for send in report.sends])
    assert sends == [Send(b"answer", ROUTE)]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_hosts_of_one_site_work_together(hosts: Hosts, host: str) -> None:
    setting = f"tcp://{host}:*"
    frontend, worker = hosts.frontend(setting=setting), hosts.worker(setting=setting)
    assert frontend.endpoint.startswith(f"tcp://{host}:")
    work(frontend, worker)


def test_a_site_works_while_its_key_is_replaced(hosts: Hosts) -> None:
    old, new = KeyPair.generate(os.urandom), KeyPair.generate(os.urandom)
    work(hosts.frontend(curve(new, own=old)), hosts.worker(curve(old, own=new)))


def test_a_worker_takes_no_frontend_whose_key_is_not_the_sites(hosts: Hosts) -> None:
    stranger, worker = hosts.frontend(curve()), hosts.worker()
    worker.update_fleet([address(stranger)], 0.0)
    assert worker.frontends == []


def test_an_announcement_with_the_sites_key_and_a_strangers_endpoint_leads_nobody_astray(hosts: Hosts) -> None:
    """Redis may say anything: the endpoint has to prove the key."""
    stranger, worker = hosts.frontend(curve(hosts.site.own)), hosts.worker()
    worker.update_fleet([address(stranger)._replace(curve_key=hosts.site.own.public)], 0.0)
    honest = hosts.frontend()
    worker.update_fleet([address(honest)._replace(instance="honest")], 0.0)
    assert until(honest.reports)
    assert stranger.reports() == []


def test_nobody_with_another_key_can_speak_for_a_worker(hosts: Hosts) -> None:
    frontend = hosts.frontend()
    outsider = hosts.worker(curve(hosts.site.own))  # admits us, is not admitted
    outsider.update_fleet([address(frontend)], 0.0)
    work(frontend, hosts.worker())
    assert outsider.drops == {}


def test_nobody_without_a_key_can_speak_for_a_worker(hosts: Hosts) -> None:
    frontend = hosts.frontend()
    with new_context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 0)
        push.connect(frontend.endpoint)
        push.send(msgspec.msgpack.encode(Report("evil", "tcp://127.0.0.1:1", b"", [0], 9, [], [], [])))
        work(frontend, hosts.worker())
        assert frontend.reports() == []


def test_a_message_that_is_too_long_ends_its_connection_only(hosts: Hosts) -> None:
    frontend, worker = hosts.frontend(), hosts.worker()
    work(frontend, worker)
    pipeline = hosts.pipeline()
    push = pipeline.context.socket(zmq.PUSH)
    push.setsockopt(zmq.LINGER, 0)
    hosts.site.connect(push, hosts.site.own.public)
    push.connect(worker.endpoint)
    push.send(bytes(MAX_MESSAGE + 1))
    frontend.push("w", Batch("f", 2, JOBS))
    assert until(lambda: worker.poll(0.01, 0.0))[0].number == 2
    assert worker.drops == {}


def test_a_frontend_refuses_a_worker_of_the_other_kind_or_another_site(hosts: Hosts) -> None:
    frontend = hosts.frontend()
    assert not frontend.connect("a", "ipc:///somewhere")
    assert not frontend.connect("b", "tcp://127.0.0.1:1", curve().own.public)
    assert frontend.drops == {"other_pipeline": 2}


def test_each_process_takes_a_free_port_of_the_range(hosts: Hosts) -> None:
    first = hosts.frontend()
    port = int(first.endpoint.rpartition(":")[2])
    second = hosts.frontend(setting=f"tcp://127.0.0.0/8:{port}-{port + 20}")
    assert port < int(second.endpoint.rpartition(":")[2]) <= port + 20
    with pytest.raises(ConfigurationError, match="in use"):
        hosts.frontend(setting=f"tcp://127.0.0.1:{port}")


def test_a_leaving_frontend_is_spared_where_another_has_its_endpoint(hosts: Hosts) -> None:
    leaving, staying, worker = hosts.frontend(), hosts.frontend(), hosts.worker()
    fleet = [address(leaving), address(staying)._replace(instance="other")]
    worker.update_fleet(fleet, 0.0)
    report = until(leaving.reports)[0]
    leaving.connect(report.worker, report.endpoint, report.curve_key)
    assert worker.frontend_for(ROUTE, ["f"]) == "f"
    leaving.leave("f")
    until(lambda: [worker.poll(0.01, 0.0), worker.frontend_for(ROUTE, ["f"]) == "other"][1])
    worker.update_fleet(fleet, 1.0)
    assert worker.frontend_for(ROUTE, ["f"]) == "other", "its heartbeat may still be in the list"
    worker.update_fleet(fleet[:1], 2.0)
    assert worker.frontend_for(ROUTE, ["f"]) == "f", "better than nobody"


def test_no_credit_can_fill_a_queue(hosts: Hosts) -> None:
    with pytest.raises(AssertionError, match="room in the queue"):
        hosts.pipeline().worker("w", [0], batches=BATCH_HIGH_WATER)
