"""Prometheus metrics.  Work loops count in plain dictionaries; this reads them when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cyphonic.errors import OperationalError
from cyphonic.wire.endpoint import Endpoint


@dataclass(frozen=True)
class Family:
    """One metric.  ``read`` returns value by label value, or by ``""`` for a metric without a label."""

    name: str
    """``cyphonic_<tier>_<thing>``, with ``_total`` for a counter."""
    help: str
    read: Callable[[], Mapping[str, float]]
    label: str = ""

    def metric(self) -> Metric:
        """As it is now."""
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        metric = kind(self.name, self.help, labels=[self.label] if self.label else [])
        for value, number in dict(self.read()).items():
            metric.add_metric([value] if self.label else [], number)
        return metric


def serve_metrics(endpoint: Endpoint, families: Sequence[Family]) -> None:
    """Serve ``http://endpoint/metrics`` from a daemon thread.  Raise OperationalError when the port is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    try:
        start_http_server(endpoint.port, addr=endpoint.host, registry=registry)
    except OSError as error:
        raise OperationalError(
            f"cannot serve metrics on {endpoint}: {error.strerror}", "choose another port with --metrics"
        ) from None


class _Collector:
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield family.metric()

    def describe(self) -> list[Metric]:
        return []
