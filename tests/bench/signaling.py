"""Signaling transactions per second of a real cluster, the load generator on the same cores.

Two scenarios: a direction is the three-leg transaction (request, RouteDirection to the responder, confirmation,
RouteDirection to the initiator), a login is Noise IK, key distribution between AS and NMS, certificate, and the
registration that follows.  Each is run flat out for throughput; the direction once more at half of that
for latency, because a closed loop shows only its own window.
"""

from __future__ import annotations

import json
import time
from contextlib import closing

from cyphonic.bundle import Bundle
from cyphonic.loadgen.cli import make_nodes
from cyphonic.loadgen.driver import Generator, LoadReport
from cyphonic.loadgen.latency import KindReport
from cyphonic.loadgen.scenario import Scenario
from tests.bench.cluster import Cluster, running_cluster
from tests.bench.harness import RUNS, Benchmark, CpuMeter, ForeignLoad

NODES = 200
DURATION = 5.0
"""Seconds of each measured run."""
WINDOW = 256
LOGIN_WINDOW = 32
TARGET = 5000.0
"""Three-leg transactions per second on two cores, load included."""


def main() -> bool:
    """Measure; whether the target is met."""
    benchmark = Benchmark("signaling", f"Signaling: {NODES} nodes, cluster and load on the same cores")
    with running_cluster() as cluster:
        benchmark.notes["processes"] = json.dumps({tier: len(pids) for tier, pids in cluster.processes().items()})
        bundle = Bundle.load(cluster.bundle)
        with closing(Generator(make_nodes(bundle, "bench", NODES), bundle)) as generator:
            generator.join()
            generator.measure(Scenario.DIRECTION, 1.0, 0.0, WINDOW)  # warm
            for _ in range(RUNS):
                rate = throughput(benchmark, cluster, generator, Scenario.DIRECTION, WINDOW)
                latency(benchmark, generator, rate / 2)
                throughput(benchmark, cluster, generator, Scenario.LOGIN, LOGIN_WINDOW)
    return benchmark.finish()


def throughput(
    benchmark: Benchmark, cluster: Cluster, generator: Generator, scenario: Scenario, window: int
) -> float:
    """One run as fast as it goes; transactions per second."""
    meter, foreign, own = CpuMeter(cluster.processes()), ForeignLoad(), time.process_time()
    report = generator.measure(scenario, DURATION, 0.0, window)
    cpu = meter.used()
    taken = foreign.percent(sum(cpu.values()) + time.process_time() - own)
    row = main_row(report)
    name = scenario.value
    target = TARGET if scenario is Scenario.DIRECTION else None
    benchmark.add(f"{name}s", "per second", row.rate, target=target)
    benchmark.add(f"{name}s given up", "transactions", row.gave_up, target=0, lower_is_better=True)
    benchmark.add(f"{name}s refused", "transactions", row.refused, target=0, lower_is_better=True)
    benchmark.add(f"{name}s resent", "datagrams", row.resends)
    for tier, seconds in cpu.items():
        benchmark.add(f"{name} CPU {tier}", "µs", 1e6 * seconds / max(1, row.completed), digits=1)
    benchmark.add(f"{name} CPU generator", "µs", report.generator_cpu_us, digits=1)
    benchmark.add(f"{name}s: machine used by others", "%", taken, digits=1)
    return row.rate


def latency(benchmark: Benchmark, generator: Generator, rate: float) -> None:
    """One run at a rate that the cluster can bear."""
    row = main_row(generator.measure(Scenario.DIRECTION, DURATION, rate, WINDOW))
    benchmark.add("direction p50 at half load", "ms", row.p50_ms, digits=2)
    benchmark.add("direction p90 at half load", "ms", row.p90_ms, digits=2)
    benchmark.add("direction p99 at half load", "ms", row.p99_ms, digits=2)


def main_row(report: LoadReport) -> KindReport:
    """The kind of transaction that a scenario is about."""
    return report.transactions[report.scenario]
