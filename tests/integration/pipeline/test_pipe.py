"""Both ends of the pipe over real ZeroMQ sockets."""

import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from cyphonic.errors import ConfigurationError
from cyphonic.pipeline import (
    FRONTEND_GRACE,
    Context,
    FrontendAddress,
    FrontendPipe,
    WorkerPipe,
    ipc_endpoint,
    new_context,
    new_instance,
)
from cyphonic.wire.job import Batch, Job, Origin, Report, Route, Send

ROUTE = Route("192.0.2.1", 7702, "198.51.100.1", 1)
JOBS = [Job(b"job", Origin.UDP, ROUTE)]
ResultT = TypeVar("ResultT")


def until(attempt: Callable[[], ResultT]) -> ResultT:
    """Real sockets take their time: try until there is something, at most 5 s."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if result := attempt():
            return result
        time.sleep(0.001)
    raise AssertionError("nothing came")


class Ends:
    def __init__(self, context: Context, directory: Path) -> None:
        self.context = context
        self.directory = directory
        self.open: list[FrontendPipe | WorkerPipe] = []

    def frontend(self, name: str = "f") -> FrontendPipe:
        pipe = FrontendPipe(self.context, ipc_endpoint(self.directory, name))
        self.open.append(pipe)
        return pipe

    def worker(self, name: str = "w", batches: int = 2) -> WorkerPipe:
        pipe = WorkerPipe(self.context, name, [1, 0], ipc_endpoint(self.directory, name), batches)
        self.open.append(pipe)
        return pipe


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    context = new_context()
    made = Ends(context, tmp_path / "p")
    yield made
    for pipe in made.open:
        pipe.close()
    context.term()
    assert list(made.directory.iterdir()) == []


def address(pipe: FrontendPipe, name: str = "f", *bound: tuple[str, int]) -> FrontendAddress:
    return FrontendAddress(name, pipe.endpoint, frozenset(bound))


def report_where(frontend: FrontendPipe, wanted: Callable[[Report], object]) -> Report:
    """Ticks come in between."""
    return until(lambda: [report for report in frontend.reports() if wanted(report)])[0]


def meet(frontend: FrontendPipe, worker: WorkerPipe) -> Report:
    worker.update_fleet([address(frontend)], 0.0)
    report = until(frontend.reports)[0]
    frontend.connect(report.worker, report.endpoint)
    return report


def test_a_worker_introduces_itself_with_services_and_credit(ends: Ends) -> None:
    report = meet(ends.frontend(), ends.worker())
    assert (report.worker, report.services, report.credit) == ("w", [0, 1], 2)


def test_a_batch_goes_there_and_its_datagrams_come_back(ends: Ends) -> None:
    frontend, worker = ends.frontend(), ends.worker()
    meet(frontend, worker)
    assert frontend.push("w", Batch("f", 1, JOBS))
    batches = until(lambda: worker.poll(0.1, 0.0))
    assert batches == [Batch("f", 1, JOBS)]
    worker.complete(batches, [Send(b"answer", ROUTE)], [b"forward"])
    report = report_where(frontend, lambda report: report.completed)
    assert (report.completed, report.credit) == ([1], 3)
    assert (report.sends, report.forwards) == ([Send(b"answer", ROUTE)], [b"forward"])


def test_the_credit_counts_what_is_in_hand(ends: Ends) -> None:
    frontend, worker = ends.frontend(), ends.worker()
    meet(frontend, worker)
    for number in (1, 2):
        frontend.push("w", Batch("f", number, JOBS))
    batches: list[Batch] = []
    while len(batches) < 2:
        batches += until(lambda: worker.poll(0.1, 0.0))
    worker.report("f")
    assert until(frontend.reports)[-1].credit == 2
    worker.complete(batches[:1])
    assert report_where(frontend, lambda report: report.completed == [1]).credit == 3
    worker.complete(batches[1:])
    assert report_where(frontend, lambda report: report.completed == [2]).credit == 4


def test_the_credit_is_divided_over_the_frontends_and_never_less_than_one(ends: Ends) -> None:
    frontends = {name: ends.frontend(name) for name in ("f1", "f2", "f3")}
    ends.worker(batches=4).update_fleet([address(pipe, name) for name, pipe in frontends.items()], 0.0)
    assert [until(pipe.reports)[0].credit for pipe in frontends.values()] == [1, 1, 1]


def test_an_empty_batch_is_answered_with_a_report(ends: Ends) -> None:
    frontend, worker = ends.frontend(), ends.worker()
    meet(frontend, worker)
    frontend.push("w", Batch("f", 2, []))  # 1 and 2 were lost
    worker.poll(5.0, 0.0)
    report_where(frontend, lambda report: report.credit == 4)


def test_an_idle_worker_reports_by_itself(ends: Ends) -> None:
    frontend, worker = ends.frontend(), ends.worker()
    meet(frontend, worker)
    worker.poll(0.0, 100.0)
    assert until(frontend.reports)
    worker.poll(0.0, 100.1)
    worker.poll(0.0, 100.5)
    assert len(until(frontend.reports)) == 1


def test_an_answer_goes_through_a_frontend_that_is_bound_to_its_service_endpoint(ends: Ends) -> None:
    one, two = ends.frontend("f1"), ends.frontend("f2")
    worker = ends.worker()
    here, there, both = ("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.3", 1)
    worker.update_fleet([address(one, "f1", here, both), address(two, "f2", there, both)], 0.0)

    def route(service: tuple[str, int]) -> Route:
        return Route(*service, "198.51.100.1", 1)

    assert worker.frontend_for(route(here), ["f2"]) == "f1"
    assert worker.frontend_for(route(there), ["f1"]) == "f2"
    assert worker.frontend_for(route(both), ["f2"]) == "f2"
    assert worker.frontend_for(route(both)) in ("f1", "f2")
    assert worker.frontend_for(route(("192.0.2.9", 1))) is None
    assert worker.frontend_for(route(("192.0.2.9", 1)), ["f1"]) == "f1"


def test_an_answer_for_another_frontends_node_leaves_through_that_one(ends: Ends) -> None:
    one, two, worker = ends.frontend("f1"), ends.frontend("f2"), ends.worker()
    worker.update_fleet([address(one, "f1"), address(two, "f2", ("192.0.2.1", 7702))], 0.0)
    report = until(one.reports)[0]
    until(two.reports)
    one.connect(report.worker, report.endpoint)
    one.push("w", Batch("f1", 1, JOBS))
    worker.complete(until(lambda: worker.poll(0.1, 0.0)), [Send(b"direction", ROUTE)])
    assert report_where(two, lambda report: report.sends).sends == [Send(b"direction", ROUTE)]
    assert report_where(one, lambda report: report.completed).completed == [1]


def test_a_frontend_that_is_gone_is_let_go_after_its_grace_and_its_numbers_stay(ends: Ends) -> None:
    frontend, worker = ends.frontend(), ends.worker()
    meet(frontend, worker)
    frontend.push("w", Batch("f", 1, JOBS))
    worker.complete(until(lambda: worker.poll(0.1, 0.0)))
    worker.update_fleet([], 1.0)
    assert worker.frontends == ["f"]
    worker.update_fleet([], 1.1 + FRONTEND_GRACE)
    assert worker.frontends == []
    assert not worker.report("f")
    assert worker.drops == {"frontend_gone": 1}
    until(frontend.reports)
    worker.update_fleet([address(frontend)], 20.0)
    assert until(frontend.reports)[0].credit == 3


def test_bytes_that_are_no_report_are_dropped_and_counted(ends: Ends) -> None:
    frontend, worker = ends.frontend(), ends.worker()
    frontend.connect("other", frontend.endpoint)
    frontend.push("other", Batch("f", 1, JOBS))
    until(lambda: frontend.reports() or frontend.drops)
    assert frontend.drops == {"bad_report": 1}
    worker.update_fleet([FrontendAddress("w", worker.endpoint, frozenset())], 0.0)
    until(lambda: worker.poll(0.01, 0.0) or worker.drops)
    assert worker.drops["bad_batch"] >= 1


def test_the_directory_is_private_and_cleared_of_dead_sockets(tmp_path: Path) -> None:
    directory = tmp_path / "p"
    directory.mkdir(mode=0o755)
    live, dead = directory / "live", directory / "dead"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as corpse:
        listener.bind(str(live))
        listener.listen()
        corpse.bind(str(dead))
        long_ago = time.time() - 60
        for path in (live, dead):
            os.utime(path, (long_ago, long_ago))
        ipc_endpoint(directory, "new")
    assert [path.name for path in directory.iterdir()] == ["live"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_path_too_long_for_a_socket_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long") as caught:
        ipc_endpoint(tmp_path / ("x" * 120), "f")
    assert "run_dir" in caught.value.hint


def test_instances_are_random() -> None:
    assert len({new_instance(os.urandom) for _ in range(100)}) == 100


def test_an_end_without_a_descriptor_for_the_other_meets_it_later(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend, worker = ends.frontend(), ends.worker()
    fleet = [FrontendAddress("f", frontend.endpoint, frozenset())]
    with monkeypatch.context() as patch:
        patch.setattr("cyphonic.pipeline._socket", out_of_descriptors)
        assert not frontend.connect("w", worker.endpoint)
        assert not frontend.push("w", Batch("f", 1, JOBS))
        worker.update_fleet(fleet, 0.0)
    assert frontend.drops["no_descriptor"] == 2
    assert worker.drops["no_descriptor"] == 1
    assert frontend.push("w", Batch("f", 2, JOBS))
    assert until(lambda: worker.poll(0.1, 0.0))[0].number == 2
    worker.update_fleet(fleet, 1.0)
    assert until(frontend.reports)


def out_of_descriptors(*_: object) -> None:
    raise zmq.ZMQError(errno.EMFILE)
