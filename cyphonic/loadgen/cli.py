"""``cyphonic loadgen``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import closing

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cyphonic.bundle import Bundle
from cyphonic.loadgen.driver import Generator, LoadReport
from cyphonic.loadgen.scenario import Scenario
from cyphonic.loadgen.simulated import SimulatedNode, make_secret

SCHEMA_VERSION = 1
"""Of the --json document: fields are added, never renamed or removed, under one version."""


@click.command("loadgen")
@click.option(
    "--enrol", "bundle_file", required=True, metavar="FILE|-", help="Bundle with a reusable enrolment key."
)
@click.option("--nodes", type=click.IntRange(2, 100_000), default=100, show_default=True, help="Simulated nodes.")
@click.option("--duration", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Seconds.")
@click.option(
    "--scenario",
    type=click.Choice([scenario.value for scenario in Scenario]),
    default=Scenario.DIRECTION.value,
    show_default=True,
    help="Logins with registration; directions (three legs); or 5 % and 95 %.",
)
@click.option(
    "--rate", type=click.FloatRange(0), default=0.0, help="Transactions per second; 0: as fast as it goes."
)
@click.option(
    "--window", type=click.IntRange(1), default=128, show_default=True, help="Under way when without rate."
)
@click.option("--prefix", default="load", show_default=True, help="Names are PREFIX-1, PREFIX-2, …")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    bundle_file: str,
    nodes: int,
    duration: float,
    scenario: str,
    rate: float,
    window: int,
    prefix: str,
    as_json: bool,
) -> None:
    """Load a real cluster with simulated nodes, each with real handshakes.

    Nodes of the same prefix and enrolment key are the same in every run, so that runs do not fill the registry.
    """
    bundle = Bundle.load(bundle_file)
    show = _shower(as_json)
    with closing(Generator(make_nodes(bundle, prefix, nodes), bundle, progress=show)) as generator:
        generator.join()
        report = generator.measure(Scenario(scenario), duration, rate, window)
    show("")
    if as_json:
        click.echo(msgspec.json.encode({"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(report)}).decode())
    else:
        print_report(report)


def make_nodes(bundle: Bundle, prefix: str, count: int) -> list[SimulatedNode]:
    """``count`` nodes named ``prefix-1`` and so on."""
    names = [f"{prefix}-{number}" for number in range(1, count + 1)]
    return [
        SimulatedNode(
            name, make_secret(bundle.enrolment_key, name), bundle.as_key, bundle.as_verify_key, os.urandom
        )
        for name in names
    ]


def print_report(report: LoadReport) -> None:
    """A table for people."""
    load = f"{report.rate_wanted:g}/s wanted" if report.rate_wanted else f"{report.window} under way"
    table = Table(
        title=f"{report.scenario}: {report.nodes} nodes, {report.duration:.1f} s, {load}", box=SIMPLE_HEAD
    )
    table.title_justify = "left"
    table.add_column("transaction")
    for heading in ("/s", "done", "refused", "gave up", "resent", "p50 ms", "p90 ms", "p99 ms", "max ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, row in report.transactions.items():
        counts = (row.completed, row.refused, row.gave_up, row.resends)
        latencies = (row.p50_ms, row.p90_ms, row.p99_ms, row.max_ms)
        table.add_row(kind, f"{row.rate:,.0f}", *map(str, counts), *(f"{latency:.2f}" for latency in latencies))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    drops = ", ".join(f"{reason} {count}" for reason, count in report.drops.items()) or "nothing"
    console.print(f"generator: {report.generator_cpu_us:.0f} µs of CPU a transaction; dropped: {drops}")


def _shower(as_json: bool) -> Callable[[str], None]:
    """Progress on one line of a terminal, and nowhere else."""
    if as_json or not sys.stderr.isatty():
        return lambda _: None
    return lambda text: click.echo(f"\r\x1b[K{text}", nl=False, err=True)
