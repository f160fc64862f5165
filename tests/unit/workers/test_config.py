"""``[worker]``."""

from __future__ import annotations

import pytest

from cyphonic.configuration import load
from cyphonic.errors import ConfigurationError
from cyphonic.wire.job import Service
from cyphonic.workers.config import WorkerSection
from cyphonic.workers.process import worker_children


def section(**flags: object) -> WorkerSection:
    return load(WorkerSection, section="worker", file=None, environ={}, flags=flags)


def test_services_are_listed_by_name() -> None:
    assert section(service="nms").services == {Service.NMS}
    assert section().services == {Service.AS, Service.NMS}


@pytest.mark.parametrize("flags", [{"service": "dns"}, {"service": ","}, {"processes": 0}, {"threads": 99}])
def test_what_cannot_be_is_refused(flags: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        section(**flags)


def test_every_process_serves_its_metrics_on_a_port_of_its_own() -> None:
    children = worker_children(["worker"], section(metrics="127.0.0.1:9100", processes=2))
    assert [child.argv[-1] for child in children] == ["127.0.0.1:9100", "127.0.0.1:9101"]
