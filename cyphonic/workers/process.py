"""A worker process, put together: which thread gets what; and a worker of several processes, supervised.

Order of a stop: threads tell the frontends that they want no more, finish what is under way, leave the fleet and
close; then the ZeroMQ context ends.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from cyphonic.errors import OperationalError
from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.metrics import Family, serve_metrics
from cyphonic.pipeline import Pipeline, new_instance
from cyphonic.protocol.chance import Chance
from cyphonic.site import Site, SiteKeys
from cyphonic.state.store import Store, StoreConfig
from cyphonic.supervisor import ChildSpec
from cyphonic.wire.endpoint import Endpoint
from cyphonic.workers.config import WorkerSection
from cyphonic.workers.dispatch import Dispatcher
from cyphonic.workers.pool import WorkerThread
from cyphonic.workers.setting import ServiceKeys

_log = logging.getLogger(__name__)

STORE_TIMEOUT = 0.4
"""Seconds for an answer of Redis.  Two attempts stay below the supervisor's 1.5 s: a Redis that hangs is no reason
to kill its workers."""
PULSE = 0.2
"""Seconds between two looks at the threads."""
TURN_OVERDUE = 1.2
"""Seconds without a turn after which a thread counts as stalled; then the process no longer ticks."""


class WorkerProcess:
    """The threads of one process."""

    def __init__(self, threads: Sequence[WorkerThread], clock: Callable[[], float] = time.monotonic) -> None:
        self.threads = threads
        self._clock = clock
        self._running: list[threading.Thread] = []

    def run(self, stop: StopSignal, lifeline: Lifeline) -> None:
        """Until ``stop``, then drain.

        Raise StoreUnavailableError at the start, OperationalError when a thread has died.
        """
        for thread in self.threads:
            thread.begin()
        self._running = [
            threading.Thread(target=thread.run, name=f"worker-{number}")
            for number, thread in enumerate(self.threads)
        ]
        for running in self._running:
            running.start()
        lifeline.set_ready(True)
        try:
            while not stop.requested and all(running.is_alive() for running in self._running):
                select.select([stop.fileno()], [], [], PULSE)
                self._tick(lifeline)
        finally:
            died = not stop.requested
            lifeline.stopping()
            self._join(lifeline)
        if died:
            raise OperationalError("a worker thread ended by itself", "its stack trace stands in the log above")

    def drops(self) -> Counter[str]:
        """Of all threads, by reason."""
        total: Counter[str] = Counter()
        for thread in self.threads:
            total.update(thread.drops)
        return total

    def jobs(self) -> Counter[str]:
        """Handled by all threads, by message type."""
        total: Counter[str] = Counter()
        for thread in self.threads:
            total.update(dict(thread.jobs))
        return total

    def batches(self) -> Mapping[str, float]:
        """Worked through by all threads."""
        return {"": sum(thread.batches for thread in self.threads)}

    def _tick(self, lifeline: Lifeline) -> None:
        """Alive when every thread has turned lately, not merely because this one looks at them."""
        now = self._clock()
        if all(now - thread.last_turn < TURN_OVERDUE for thread in self.threads):
            lifeline.tick(now)

    def _join(self, lifeline: Lifeline) -> None:
        for thread in self.threads:
            thread.stop()
        for running in self._running:
            while running.is_alive():
                running.join(PULSE)
                self._tick(lifeline)


@contextmanager
def open_process(site: Site, section: WorkerSection, chance: Chance) -> Iterator[WorkerProcess]:
    """Read the keys, bind the pipes.  Raise ConfigurationError, or OperationalError for a metrics port in use."""
    files = SiteKeys(site.keys_dir)
    keys = ServiceKeys.load(files, section.services)
    config = StoreConfig(site.redis_url, site.redis_password(), STORE_TIMEOUT)
    threads: list[WorkerThread] = []
    with Pipeline(site.pipeline, site.pipeline_dir, files.curve(site.pipeline)) as pipeline:
        try:
            for _ in range(section.threads):
                pipe = pipeline.worker(new_instance(chance), section.services, section.batches)
                dispatcher = Dispatcher(section.services, keys, site, chance)
                store = Store(config)
                threads.append(WorkerThread(pipe, store, dispatcher, section.services, drain=section.drain))
            process = WorkerProcess(threads)
            if section.metrics is not None:
                serve_metrics(section.metrics, _families(process))
            yield process
        finally:
            for thread in threads:
                thread.close()


def worker_children(argv: Sequence[str], section: WorkerSection) -> list[ChildSpec]:
    """One child per process; ``argv`` runs this very worker, and the last of repeated options counts."""
    children = []
    for number in range(section.processes):
        options = ["--processes", "1"]
        if section.metrics is not None:
            endpoint = Endpoint(section.metrics.host, section.metrics.port + number)
            options += ["--metrics", str(endpoint)]
        drain = section.drain + 2
        children.append(ChildSpec(f"process-{number + 1}", [*argv, *options], drain=drain))
    return children


def _families(process: WorkerProcess) -> list[Family]:
    return [
        Family("cyphonic_worker_jobs_total", "Jobs handled by type.", process.jobs, "type"),
        Family("cyphonic_worker_drops_total", "Jobs dropped by reason.", process.drops, "reason"),
        Family("cyphonic_worker_batches_total", "Batches completed.", process.batches),
    ]
