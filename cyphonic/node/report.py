"""What the daemon says of itself: the core's state in the terms of ``status.py``."""

from __future__ import annotations

import math
import socket
from collections import Counter

from cyphonic.node.status import CloudStatus, FamilyStatus, PathName, PeerStatus, RelayStatus
from cyphonic.protocol.client import CloudUnreachable, SignalingClient
from cyphonic.protocol.keys import encode_key
from cyphonic.protocol.paths import PathKind
from cyphonic.protocol.peer import Peer
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.registration import RelayAddress

_FAMILY_NAMES = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}
_PATH_NAMES: dict[PathKind, PathName] = {
    PathKind.LAN: "lan",
    PathKind.DIRECT: "direct",
    PathKind.RELAYED: "relayed",
}


def path_name(kind: PathKind | None) -> PathName:
    """As people read it."""
    return "none" if kind is None else _PATH_NAMES[kind]


def address_text(packed: bytes) -> str:
    """A virtual address; empty for none."""
    if not packed:
        return ""
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)


def report_peer(peer: Peer, wall_offset: float) -> PeerStatus:
    """One line of ``status``.  ``wall_offset`` turns the core's monotonic time into Unix time."""
    certificate, traffic, paths = peer.certificate, peer.traffic, peer.paths
    current = paths.current if peer.answering else None
    endpoint = str(current.endpoint) if current is not None else ""
    relayed = current is not None and bool(current.prefix)
    return PeerStatus(
        name=certificate.fqdn,
        ipv6=address_text(certificate.virtual_ipv6),
        ipv4=address_text(certificate.virtual_ipv4),
        path=path_name(paths.current_kind if current is not None else None),
        endpoint=endpoint,
        relay=endpoint if relayed else "",
        why=_why(peer) if current is not None else _why_none(peer),
        settled=current is not None and paths.settled,
        first_path=path_name(peer.first_kind),
        last_handshake=None if peer.last_handshake is None else peer.last_handshake + wall_offset,
        rtt=paths.current_rtt if current is not None else None,
        rx_bytes=traffic.received_bytes,
        tx_bytes=traffic.sent_bytes,
        rx_packets=traffic.received_packets,
        tx_packets=traffic.sent_packets,
        suite="" if peer.session is None else peer.session.suite.name.lower(),
    )


def _why(peer: Peer) -> str:
    paths = peer.paths
    in_vain = paths.settled and paths.current_kind is PathKind.RELAYED and paths.better
    return f"{paths.why}; no direct path answered" if in_vain else paths.why


def _why_none(peer: Peer) -> str:
    if peer.established:
        return "does not answer any more; looking for another way"
    return "connecting" if peer.connecting else "no tunnel now"


def report_cloud(
    client: SignalingClient,
    region: str,
    domain: str,
    since: float | None,
    error: str,
    wall_offset: float,
    port_mapping: str = "",
) -> CloudStatus:
    """How this node stands with its cloud.  ``since``: Unix time of the first registration."""
    families = [
        FamilyStatus(
            family=_FAMILY_NAMES[family],  # type: ignore[arg-type]  # one of the two literals
            registered=True,
            observed=str(lease.observed),
            service=str(lease.frontend),
        )
        for family, lease in client.leases.items()
    ]
    return CloudStatus(
        region=region,
        domain=domain,
        as_endpoints=[str(endpoint) for endpoint in client.as_endpoints],
        nms_endpoints=[str(endpoint) for endpoint in client.nms_endpoints],
        families=families,
        registered_since=since,
        key_number=client.key_number,
        renewal=None if client.next_renewal is None else client.next_renewal + wall_offset,
        error=error,
        port_mapping=port_mapping,
        relays=[_report_relay(client, relay) for relay in client.relays],
    )


def _report_relay(client: SignalingClient, relay: RelayAddress) -> RelayStatus:
    endpoints = [Endpoint.decode(endpoint) for endpoint in relay.endpoints]
    measured = [client.relay_round_trips.get(endpoint, math.inf) for endpoint in endpoints]
    best = min(measured, default=math.inf)
    return RelayStatus(
        encode_key(relay.public_key), [str(one) for one in endpoints], None if best == math.inf else best
    )


def unreachable_text(event: CloudUnreachable, client: SignalingClient, drops: Counter[str]) -> str:
    """Why the cloud may not answer, for people.  ``drops``: what the sockets refused to send since it last did."""
    endpoints = client.as_endpoints if event.what == "AS" else client.nms_endpoints
    if event.family is not None:
        endpoints = [endpoint for endpoint in endpoints if endpoint.family is event.family]
    where = f"the cloud's {event.what} ({', '.join(map(str, endpoints)) or 'no address known'})"
    if event.reason != "unanswered":
        return f"this network has no address family in common with {where}"
    if drops["underlay_filtered"]:
        return f"a firewall on this machine forbids UDP to {where}"
    if drops["underlay_unreachable"]:
        return f"this machine has no route to {where}"
    return f"no answer by UDP from {where}: it is down, or this network blocks UDP"


def report_drops(*counters: Counter[str]) -> dict[str, int]:
    """All reasons together, most frequent first."""
    return dict(sum(counters, Counter[str]()).most_common())
