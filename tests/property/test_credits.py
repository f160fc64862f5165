"""Frontend and workers over a pipe that loses, repeats and reorders reports, and loses batches, in virtual time."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cyphonic.frontend.credits import Credits
from cyphonic.pipeline import Account
from cyphonic.wire.header import MessageType
from cyphonic.wire.job import Job, Origin, Report, Route

ROUTE = Route("192.0.2.1", 7702, "198.51.100.1", 1)
SHARE = 2
NAMES = ("a", "b", "c")
workers = st.sampled_from(NAMES)


class Pipe(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.credits = Credits()
        self.accounts = {name: Account() for name in NAMES}
        self.under_way: dict[str, list[tuple[int, Job | None]]] = {name: [] for name in NAMES}
        self.in_hand: dict[str, list[int]] = {name: [] for name in NAMES}
        self.reports: list[Report] = []
        self.deliveries: Counter[bytes] = Counter()
        self.made = 0

    def _report(self, name: str, *completed: int) -> None:
        credit = self.accounts[name].grant(SHARE)
        self.reports.append(Report(name, f"ipc://{name}", b"", [0, 1], credit, list(completed), [], []))

    @rule(seconds=st.floats(0.01, 1.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.credits.handle_timeout(self.now)
        for name, number in self.credits.probes(self.now):
            self.under_way[name].append((number, None))

    @rule(name=workers)
    def a_worker_ticks(self, name: str) -> None:
        self._report(name)

    @rule(data=st.data(), again=st.booleans())
    def a_report_arrives(self, data: st.DataObject, again: bool) -> None:
        if self.reports:
            index = data.draw(st.integers(0, len(self.reports) - 1))
            report = self.reports[index] if again else self.reports.pop(index)
            self.credits.handle_report(report, self.now)

    @rule()
    def a_report_is_lost(self) -> None:
        if self.reports:
            self.reports.pop(0)

    @rule()
    def a_batch_is_pushed(self) -> None:
        worker = self.credits.pick()
        if worker is not None:
            self.made += 1
            job = Job(bytes([MessageType.KEEP_ALIVE]) + self.made.to_bytes(4, "big"), Origin.UDP, ROUTE)
            number = self.credits.assign(worker, [job], self.now)
            self.under_way[worker.instance].append((number, job))

    @rule()
    def a_batch_is_given_to_another(self) -> None:
        found = self.credits.next_retry(self.now)
        if found is not None:
            worker, retry = found
            assert worker.instance != retry.owed_by
            number = self.credits.assign(worker, retry.jobs, self.now, retry=True)
            self.under_way[worker.instance].append((number, retry.jobs[0]))

    @rule(name=workers, lost=st.booleans())
    def a_batch_arrives_or_is_lost(self, name: str, lost: bool) -> None:
        if self.under_way[name]:
            number, job = self.under_way[name].pop(0)
            if lost:
                return
            if job is None:
                self.accounts[name].receive(number, probe=True)
                self._report(name)
            else:
                self.accounts[name].receive(number)
                self.in_hand[name].append(number)
                self.deliveries[job.datagram] += 1

    @rule(name=workers)
    def a_worker_completes(self, name: str) -> None:
        if self.in_hand[name]:
            number = self.in_hand[name].pop(0)
            self.accounts[name].complete()
            self._report(name, number)

    @invariant()
    def no_worker_has_more_than_it_granted(self) -> None:
        for name in NAMES:
            assert len(self.in_hand[name]) == self.accounts[name].in_hand
            batches = [job for _, job in self.under_way[name] if job is not None]
            assert len(batches) + len(self.in_hand[name]) <= SHARE

    @invariant()
    def a_frontend_believes_no_more_credit_than_there_is(self) -> None:
        for name, worker in self.credits.workers.items():
            assert worker.number <= worker.credit <= self.accounts[name].credit

    @invariant()
    def a_job_is_worked_on_at_most_twice(self) -> None:
        assert all(count <= 2 for count in self.deliveries.values())


Pipe.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestCreditsHold = Pipe.TestCase
