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
            }
            for member in fleet.frontends
        ],
        "workers": [
            {"instance": member.instance, "services": _services(member.services)} for member in fleet.workers
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
        ["frontend", member.instance, _joined(member.as_endpoints), f"NMS {_joined(member.nms_endpoints)}"]
        for member in fleet.frontends
    ]
    rows += [["worker", member.instance, "-", " ".join(_services(member.services))] for member in fleet.workers]
    rows += [
        ["relay", member.instance, _joined(member.endpoints), f"load {member.load:.0%}"] for member in fleet.relays
    ]
    return rows


def _services(numbers: list[int]) -> list[str]:
    return [Service(number).name for number in numbers]


def _joined(endpoints: list[Endpoint]) -> str:
    return " ".join(map(str, endpoints)) or "-"
