"""The demo: every ordered pair of nodes, from cold, in one table.

A pair starts cold: both ends have forgotten all their peers, the NATs before them have forgotten their mappings.
Then the initiator resolves the responder's name, and the clock runs until the first answer has come through the
tunnel.  Pairs that share neither a node nor a NAT run side by side, so that no cold start disturbs another pair.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cyphonic.lab.build import Lab, termination_raises
from cyphonic.lab.deployment import Deployment
from cyphonic.lab.measure import Agent, MeasurementError, Reached, RoundTrip, Transferred
from cyphonic.lab.tools import LabError
from cyphonic.lab.topology import load_topology

FIRST_ANSWER_TIMEOUT = 12.0
SETTLE_TIMEOUT = 10.0
"""Hole punching goes on for 2 s, path checks for 4."""
SETTLE_POLL = 0.05
TRANSFER_TIMEOUT = 30.0
"""Seconds."""
TRANSFER_SIZE = 10_000_000
"""Bytes."""
PIPE_WIDTH = 160
"""Columns, where no terminal says how wide it is."""
WIDE = 140
"""Columns that all details need."""
AT_ONCE = 4
"""Pairs side by side: the machine is to be busy, not overloaded."""
DIRECT = frozenset({"direct", "lan"})

ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class PairResult:
    """One ordered pair, filled in as far as it came; ``failure`` is empty when all went well."""

    initiator: str
    responder: str
    failure: str = ""
    first: str = ""
    """Kind of path of the first handshake: direct, lan or relayed."""
    settled: str = ""
    endpoint: str = ""
    """Where datagrams go on the settled path."""
    why: str = ""
    reached: Reached | None = None
    round_trip: RoundTrip | None = None
    transferred: Transferred | None = None

    @property
    def name(self) -> str:
        """For lines and tables."""
        return f"{self.initiator} → {self.responder}"


class Demo:
    """The demo on a lab that stands: ``start``, then ``measure`` for each of ``pairs``, then ``close``."""

    def __init__(self, lab: Lab) -> None:
        self.deployment = Deployment(lab)
        self._lab = lab
        self._agents = ExitStack()
        self._agent: dict[str, Agent] = {}
        self._fqdn: dict[str, str] = {}

    def start(self) -> Iterator[str]:
        """Cloud, nodes and agents; yields what comes next, for people."""
        deployment = self.deployment
        yield "starting the cloud: Redis, workers, frontend, relay"
        deployment.start_cloud()
        yield f"enrolling {', '.join(deployment.nodes)}"
        deployment.join(*deployment.nodes)
        yield "starting an application on each node"
        for node in deployment.nodes:
            self._fqdn[node] = deployment.status(node)["fqdn"]
            self._agent[node] = self._agents.enter_context(Agent(self._lab, node))

    def close(self) -> None:
        """End the agents; nodes and cloud end with the lab."""
        self._agents.close()

    def pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of nodes."""
        return list(itertools.permutations(self.deployment.nodes, 2))

    def occupied(self, initiator: str, responder: str) -> frozenset[str]:
        """Hosts and NATs that a pair needs for itself."""
        topology = self._lab.topology
        nats = {nat.name for node in (initiator, responder) for nat in topology.nats_before(topology.host(node))}
        return frozenset({initiator, responder} | nats)

    def measure_all(self) -> Iterator[PairResult]:
        """Every pair, as many side by side as may be; yields each as it is done."""
        yield from side_by_side(self.pairs(), self.occupied, self.measure, AT_ONCE)

    def measure(self, initiator: str, responder: str) -> PairResult:
        """One pair, from cold; what goes wrong between the two becomes its ``failure``."""
        result = PairResult(initiator, responder)
        try:
            self._measure(result, self._agent[initiator], self._fqdn[responder])
            # Left alone, the two would go on to speak to each other while others are being measured.
            self.deployment.ask(initiator, "forget", name=responder)
            self.deployment.ask(responder, "forget", name=initiator)
        except LabError as error:
            result.failure = error.message.partition("\n")[0]
        return result

    def _measure(self, result: PairResult, agent: Agent, name: str) -> None:
        self._make_cold(result.initiator, result.responder)
        result.reached = agent.reach(name, FIRST_ANSWER_TIMEOUT)
        result.first = self._peer(result.initiator, name)["first_path"]
        self._settle(result)
        result.round_trip = agent.ping(result.reached.address)
        result.transferred = agent.transfer(name, TRANSFER_SIZE, TRANSFER_TIMEOUT)
        self._note_path(result)
        if self._can_be_direct(result) != (result.settled in DIRECT):
            expected = "direct" if self._can_be_direct(result) else "relayed"
            raise MeasurementError(f"the path is {result.settled}, but between these two it should be {expected}")

    def _make_cold(self, *nodes: str) -> None:
        self._lab.flush_nats(*nodes)
        for node in nodes:
            self.deployment.ask(node, "forget")

    def _settle(self, result: PairResult) -> None:
        """Wait until both ends use the same kind of path and try no better one."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while not self._note_path(result):
            if time.monotonic() > deadline:
                raise MeasurementError(f"{result.name} has not settled after {SETTLE_TIMEOUT:g} s")
            time.sleep(SETTLE_POLL)

    def _note_path(self, result: PairResult) -> bool:
        """Take down the initiator's path; return whether both ends have settled on its kind."""
        peer = self._peer(result.initiator, self._fqdn[result.responder])
        back = self._peer(result.responder, self._fqdn[result.initiator])
        result.settled, result.endpoint, result.why = peer["path"], peer["endpoint"], peer["why"]
        return bool(peer["settled"] and back["settled"] and peer["path"] == back["path"])

    def _peer(self, node: str, name: str) -> dict[str, Any]:
        for peer in self.deployment.status(node)["peers"]:
            if peer["name"] == name:
                return dict(peer)
        raise MeasurementError(f"{node} does not list {name} among its peers")

    def _can_be_direct(self, result: PairResult) -> bool:
        topology = self._lab.topology
        return topology.can_be_direct(topology.host(result.initiator), topology.host(result.responder))


def side_by_side(
    pairs: Sequence[tuple[str, str]],
    occupied: Callable[[str, str], frozenset[str]],
    work: Callable[[str, str], ResultT],
    at_once: int,
) -> Iterator[ResultT]:
    """Do the work for every pair in threads, never for two at once that occupy the same; yield as each is done."""
    waiting = list(pairs)
    running: dict[Future[ResultT], frozenset[str]] = {}
    with ThreadPoolExecutor(at_once) as threads:
        while waiting or running:
            for pair in list(waiting):
                busy = frozenset().union(*running.values())
                if len(running) < at_once and not occupied(*pair) & busy:
                    waiting.remove(pair)
                    running[threads.submit(work, *pair)] = occupied(*pair)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                yield future.result()


def run_demo(console: Console, topology: str = "demo", markdown: Path | None = None) -> bool:
    """Build, measure, print the table, take down; return whether every pair did all that it should.

    ``markdown``: a file for the settled paths as a matrix.
    """
    began = time.monotonic()
    with termination_raises(), Lab(load_topology(topology)) as lab:
        console.print(f"lab {lab.record.id}: {', '.join(lab.names())}", soft_wrap=True)
        demo = Demo(lab)
        try:
            for step in demo.start():
                console.print(f"{time.monotonic() - began:6.1f} s  {step}", soft_wrap=True)
            pairs = demo.pairs()
            results: list[PairResult] = []
            with _progress(console, len(pairs)) as advance:
                for result in demo.measure_all():
                    results.append(result)
                    advance(result.name, len(results))
                    elapsed = f"{time.monotonic() - began:6.1f} s  {len(results):2}/{len(pairs)}"
                    console.print(f"{elapsed}  {_line(result)}", soft_wrap=True)
        finally:
            demo.close()
    results.sort(key=lambda result: pairs.index((result.initiator, result.responder)))
    console.print(results_table(results, console.width))
    if markdown is not None:
        markdown.write_text(settled_matrix(results))
    good = sum(not result.failure for result in results)
    console.print(f"{good} of {len(results)} pairs in {time.monotonic() - began:.0f} s; nothing is left behind")
    return good == len(results)


def demo_console() -> Console:
    """As wide as the terminal; wide enough for the table where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar below the lines on a terminal, nothing on a pipe; yields what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)

        def advance(description: str, completed: int) -> None:
            progress.update(task, description=description, completed=completed)

        yield advance


def _line(result: PairResult) -> str:
    """One pair in a line, while the others are still to come."""
    if result.failure:
        return f"{result.name}: FAILED: {result.failure}"
    assert result.reached is not None
    assert result.transferred is not None
    way = result.first if result.first == result.settled else f"{result.first}, then {result.settled}"
    rate = _rate(result.transferred)
    return f"{result.name}: {way}; first answer after {result.reached.answered * 1000:.0f} ms; {rate} Mbit/s"


def results_table(results: list[PairResult], width: int) -> Table:
    """What was measured, or how far each pair came; with fewer details below WIDE columns."""
    wide = width >= WIDE
    table = Table(
        title="Every ordered pair, from cold",
        title_justify="left",
        box=box.SIMPLE_HEAD if wide else None,
        padding=(0, 1) if wide else (0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in ("pair", "first", "settled"):
        table.add_column(heading, no_wrap=True)
    table.add_column("why", min_width=10)
    for heading in ("first answer" if wide else "answer", "ping RTT" if wide else "RTT", "10 MB TCP, SHA-256"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result, wide))
    return table


def settled_matrix(results: list[PairResult]) -> str:
    """Settled paths in Markdown, initiators in rows: how the first handshake went, then what was settled on."""
    nodes = list(dict.fromkeys(result.initiator for result in results))
    cells = {
        (result.initiator, result.responder): result.settled
        if result.first == result.settled
        else f"{result.first} → {result.settled}"
        for result in results
    }
    rows = [["from \\ to", *nodes], ["---"] * (len(nodes) + 1)]
    rows += [[f"**{one}**", *(cells.get((one, other), "–") for other in nodes)] for one in nodes]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(result: PairResult, wide: bool) -> list[str]:
    reached, round_trip, transferred = result.reached, result.round_trip, result.transferred
    return [
        result.name,
        result.first or "-",
        f"{result.settled} {result.endpoint if wide else ''}".strip() or "-",
        f"FAILED: {result.failure}" if result.failure else result.why,
        f"{reached.answered * 1000:.0f} ms" if reached else "-",
        f"{round_trip.rtt * 1000:.2f} ms" if round_trip else "-",
        _transfer_cell(transferred, wide) if transferred else "-",
    ]


def _transfer_cell(transferred: Transferred, wide: bool) -> str:
    rate = f"{_rate(transferred)} Mbit/s"
    if wide:
        return f"{transferred.seconds:.2f} s, {rate}, equal {transferred.sha256[:8]}"
    return f"{rate}, equal"


def _rate(transferred: Transferred) -> str:
    return f"{TRANSFER_SIZE * 8 / transferred.seconds / 1e6:.0f}"
