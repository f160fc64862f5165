"""What of a site runs now, as the fleet's heartbeats tell."""

from __future__ import annotations

from cyphonic.state.fleet import Fleet, read_fleet
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.job import Service


def running(store: Store) -> Fleet:
    """Everybody who has announced themselves within the last seconds."""
    return read_fleet(store)


def as_json(fleet: Fleet) -> dict[str, object]:
    """For --json."""
    return {
        "frontends": [
            {
                "instance": member.instance,
                "as_endpoints": [str(endpoint) for endpoint in member.as_endpoints],
                "nms_endpoints": [str(endpoint) for endpoint in member.nms_endpoints],
                "pipeline": member.endpoint,
                "rate": member.rate,
            }
            for member in fleet.frontends
        ],
        "workers": [
            {
                "instance": member.instance,
                "services": _services(member.services),
                "pipeline": member.endpoint,
                "rate": member.rate,
                "load": member.load,
            }
            for member in fleet.workers
        ],
        "relays": [
            {
                "instance": member.instance,
                "endpoints": [str(endpoint) for endpoint in member.endpoints],
                "load": round(member.load, 3),
            }
            for member in fleet.relays
        ],
    }


def as_rows(fleet: Fleet) -> list[list[str]]:
    """For the table."""
    rows = [
        [
            "frontend",
            member.instance,
            _joined(member.as_endpoints),
            f"NMS {_joined(member.nms_endpoints)}, {member.rate:.0f} datagrams/s",
        ]
        for member in fleet.frontends
    ]
    rows += [
        [
            "worker",
            member.instance,
            _pipeline(member.endpoint),
            f"{' '.join(_services(member.services))}, load {member.load:.0%}, {member.rate:.0f} jobs/s",
        ]
        for member in fleet.workers
    ]
    rows += [
        ["relay", member.instance, _joined(member.endpoints), f"load {member.load:.0%}"] for member in fleet.relays
    ]
    return rows


def _services(numbers: list[int]) -> list[str]:
    return [Service(number).name for number in numbers]


def _pipeline(endpoint: str) -> str:
    """Where other hosts reach it; a socket file says nothing that a person needs."""
    return endpoint.removeprefix("tcp://") if endpoint.startswith("tcp://") else "-"


def _joined(endpoints: list[Endpoint]) -> str:
    return " ".join(map(str, endpoints)) or "-"
