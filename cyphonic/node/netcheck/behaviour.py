"""What a NAT or firewall does, from what was seen: the words of RFC 4787 (§4.1, §5), the method of RFC 5780."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from cyphonic.wire.endpoint import Endpoint

_ONE_PORT = "depends on the address, perhaps on the port: no relay has a second one"
_ONE_RELAY = "does not depend on the port, perhaps on the address: only one relay"


class Dependence(StrEnum):
    """On what a mapping, or whether something is let in, depends."""

    NONE = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address-and-port-dependent"
    UNKNOWN = "unknown"


class Finding(NamedTuple):
    """A kind, and what more there is to say."""

    kind: Dependence
    why: str = ""


def classify_mapping(observed: Mapping[Endpoint, Endpoint]) -> Finding:
    """``observed``: from where one socket was seen, by the endpoint that it sent to."""
    by_host: dict[str, set[Endpoint]] = defaultdict(set)
    ports: dict[str, int] = defaultdict(int)
    for destination, seen in observed.items():
        by_host[destination.host].add(seen)
        ports[destination.host] += 1
    if any(len(seen) > 1 for seen in by_host.values()):
        return Finding(Dependence.ADDRESS_AND_PORT)
    several_ports = max(ports.values(), default=0) > 1
    if len(set(observed.values())) > 1:
        if several_ports:
            return Finding(Dependence.ADDRESS)
        return Finding(Dependence.UNKNOWN, _ONE_PORT)
    if len(by_host) > 1:
        return Finding(Dependence.NONE)
    if several_ports:
        return Finding(Dependence.UNKNOWN, _ONE_RELAY)
    return Finding(Dependence.UNKNOWN, "only one relay, with one port" if observed else "no relay answers")


def classify_filtering(*, other_port: bool | None, other_address: bool | None) -> Finding:
    """Whether answers came in from another port of a host that was contacted, and from a host that was not.

    None: that could not be tried.
    """
    if other_address:
        return Finding(Dependence.NONE)
    if other_port is False:
        return Finding(Dependence.ADDRESS_AND_PORT)
    if other_port and other_address is False:
        return Finding(Dependence.ADDRESS)
    if other_port:
        return Finding(Dependence.UNKNOWN, _ONE_RELAY)
    if other_address is False:
        return Finding(Dependence.UNKNOWN, _ONE_PORT)
    return Finding(Dependence.UNKNOWN, "only one relay, with one port")
