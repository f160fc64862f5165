"""The whole of a node's protocol, pure: the signaling client, every peer, and who gets which datagram.

A driver (``node/daemon.py``, or the simulator) feeds it datagrams from the underlay, packets from the TUN device
and the time, and empties its ``Outbox`` and its events.  It never waits: a look-up whose answer needs the cloud is
reported later, as an event.

Which datagram goes where::

    capsule, path check, ack ── receiver index ──► peer ── session ──► inner packet
    relayed ── (relay endpoint, relay index) ──► peer, then as above with the relay's way back
    TunnelRequest, HolePunch, relay answers ── path ID ──► peer
    TunnelResponse ── receiver index ──► peer
    everything from the cloud ──► signaling client ── events ──► peers
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass
from socket import AddressFamily
from typing import TypeVar

from cyphonic.errors import DropError, MalformedError, NotAllowedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.client import SignalingClient
from cyphonic.protocol.client_events import (
    CloudUnreachable,
    Directed,
    DirectionFailed,
    LoggedIn,
    PeerRevoked,
    Registered,
    SelfRevoked,
)
from cyphonic.protocol.client_events import Event as ClientEvent
from cyphonic.protocol.index import IndexTable
from cyphonic.protocol.inner import destination
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.outbox import Outbox
from cyphonic.protocol.own import Self
from cyphonic.protocol.paths import Destination
from cyphonic.protocol.peer import Peer
from cyphonic.protocol.staging import Staging
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.direction import RefusalReason
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import RELAYED_HEADER_LENGTH, MessageType, decode_relayed
from cyphonic.wire.tunnel import Suite

K = TypeVar("K")

SHORTEST_SLEEP = 0.001
"""Seconds between two turns of one peer's timers: whatever a machine asks for, the node does not spin."""
MAX_INQUIRIES = 256
"""Targets that may be asked for at once; beyond, look-ups and packets are dropped."""
REFUSAL_REST = 1.0
"""Seconds for which packets to a peer that has just been found gone ask the NMS nothing: they may be many."""

_SEALED = frozenset({MessageType.CAPSULE, MessageType.PATH_CHECK, MessageType.PATH_CHECK_ACK})
_BY_PATH_ID = {MessageType.TUNNEL_REQUEST: slice(8, 24), MessageType.HOLE_PUNCH: slice(8, 24)}
_FROM_RELAY = frozenset({MessageType.RELAY_BIND_CHALLENGE, MessageType.RELAY_BOUND, MessageType.COOKIE_REPLY})
_GONE = frozenset({RefusalReason.UNKNOWN_NAME, RefusalReason.OFFLINE})
_FIRST_CLOUD_TYPE = MessageType.LOGIN_REQUEST


@dataclass(frozen=True, slots=True)
class LookedUp:
    """A look-up's answer: ``reason`` is None when the name has addresses."""

    target: str
    """What was asked: an FQDN, or a virtual address as text bytes in hex for reverse look-ups."""
    fqdn: str = ""
    virtual_ipv6: bytes = b""
    virtual_ipv4: bytes = b""
    reason: RefusalReason | None = None
    reachable: bool = True
    """False: the cloud did not answer, so nothing is known."""


Event = LookedUp | ClientEvent
"""What the driver learns: answers to look-ups, and everything that the signaling client reports."""


class _Inquiry:
    """A target that the NMS has been asked for, and what waits for the answer."""

    def __init__(
        self, drops: Counter[str], fqdn: str = "", address: bytes = b"", *, looked_up: bool = False
    ) -> None:
        self.fqdn = fqdn
        self.address = address
        self.looked_up = looked_up
        self.packets = Staging(drops)

    @property
    def target(self) -> str:
        return self.fqdn or self.address.hex()


class Overlay:
    """A node without its sockets, device, clock and disk."""

    def __init__(self, static: KeyPair, client: SignalingClient, chance: Chance, suites: tuple[Suite, ...]) -> None:
        self.client = client
        self.certificate: Certificate | None = None
        self.outbox = Outbox()
        self.drops = self.outbox.drops
        """Datagrams and packets deliberately not processed, by reason."""
        self._own: Self[Peer] = Self(static, chance, suites, IndexTable(chance))
        self._families: frozenset[AddressFamily] = frozenset()
        self._underlay: tuple[frozenset[AddressFamily], list[Endpoint]] = (frozenset(), [])
        self._peers: dict[bytes, Peer] = {}
        self._by_address: dict[bytes, Peer] = {}
        self._by_path: dict[bytes, Peer] = {}
        self._relayed: dict[tuple[Endpoint, int], Peer] = {}
        self._inquiries: dict[bytes, _Inquiry] = {}
        self._seen_at: dict[AddressFamily, Endpoint] = {}
        self._renewals: dict[bytes, Peer] = {}
        self._gone: dict[bytes, float] = {}
        self._timers: list[tuple[float, int, bytes]] = []
        self._timer_serial = 0
        self._scheduled: dict[bytes, float] = {}
        self._events: list[Event] = []

    # For the driver.

    @property
    def peers(self) -> list[Peer]:
        """Every peer that this node has been directed to or from."""
        return list(self._peers.values())

    def peer(self, fqdn: str) -> Peer | None:
        """The peer of that name, when it is known."""
        return next((peer for peer in self._peers.values() if peer.certificate.fqdn == fqdn), None)

    @property
    def has_events(self) -> bool:
        """Whether ``events`` would return any."""
        return bool(self._events)

    def events(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    def next_deadline(self) -> float:
        """When ``handle_timeout`` wants to be called; infinity when never."""
        client = self.client.next_deadline()
        peers = self._timers[0][0] if self._timers else math.inf
        return min(math.inf if client is None else client, peers)

    def handle_timeout(self, now: float, wall: float) -> None:
        """Do everything that is due."""
        deadline = self.client.next_deadline()
        if deadline is not None and deadline <= now:
            self.client.handle_timeout(now, wall)
            self._after_client(now)
        while self._timers and self._timers[0][0] <= now:
            due, _, node_id = heapq.heappop(self._timers)
            peer = self._peers.get(node_id)
            if self._scheduled.get(node_id) != due or peer is None:
                continue  # rescheduled since, or gone
            del self._scheduled[node_id]
            peer.handle_timeout(now)
            self._after_peer(peer, now, earliest=now + SHORTEST_SLEEP)

    def set_underlay(self, families: frozenset[AddressFamily], candidates: list[Endpoint], now: float) -> None:
        """The node's own addresses, now and after each change; the same again: the way out has changed."""
        self._families = families
        if (families, candidates) == self._underlay:
            self.client.reattach(now)
        else:
            self._underlay = (families, candidates)
            self._seen_at.clear()
            self.client.set_underlay(families, candidates, now)
        for peer in self.peers:
            peer.moved(families, now)
            self._after_peer(peer, now)
        self._after_client(now)

    def log_in(self, now: float, wall: float, enrolment_key: bytes = b"") -> None:
        """Join, and stay joined; the first time with an enrolment key."""
        self.client.login(now, wall, enrolment_key)
        self._after_client(now)

    def receive_datagram(self, datagram: bytes, source: Endpoint, now: float, wall: float) -> None:
        """A UDP payload from the underlay.  Whatever is wrong with it becomes a counted drop."""
        try:
            if not datagram:
                raise MalformedError("too_short")
            if datagram[0] == MessageType.COOKIE_REPLY and datagram[8:24] in self._by_path:
                self._receive_from_node(datagram, Destination(source), now)  # from a relay
            elif datagram[0] >= _FIRST_CLOUD_TYPE or datagram[0] == MessageType.RELAY_PROBE_REPLY:
                self.client.receive_datagram(datagram, source, now, wall)
                self._after_client(now)
            elif datagram[0] == MessageType.RELAYED:
                self._receive_relayed(datagram, source, now)
            else:
                self._receive_from_node(datagram, Destination(source), now)
        except DropError as drop:
            self.drops[drop.reason] += 1

    def receive_packet(self, packet: bytes, now: float) -> None:
        """A packet that the kernel routed into the TUN device."""
        address = destination(packet)
        if not address:
            self.drops["not_ip"] += 1
            return
        peer = self._by_address.get(address)
        if peer is None:
            self._inquire_for_packet(packet, address, now)
            return
        peer.send_packet(packet, now)
        if peer.attention:
            self._after_peer(peer, now)

    def look_up(self, fqdn: str, now: float) -> LookedUp | None:
        """The addresses of a name, and a tunnel begun; None: the answer comes as an event with this target."""
        peer = self.peer(fqdn)
        if peer is not None:
            peer.connect(now)
            self._after_peer(peer, now)
            return _found(fqdn, peer.certificate)
        if self.certificate is not None and fqdn == self.certificate.fqdn:
            return _found(fqdn, self.certificate)
        if not self._inquire(_Inquiry(self.drops, fqdn, looked_up=True), now):
            return LookedUp(fqdn, reachable=False)
        return None

    def look_up_address(self, address: bytes, now: float) -> LookedUp | None:
        """The name of a virtual address (16 or 4 bytes), as ``look_up`` does it; the target is its hex form."""
        peer = self._by_address.get(address)
        if peer is not None:
            return _found(address.hex(), peer.certificate)
        if self.certificate is not None and address in (
            self.certificate.virtual_ipv6,
            self.certificate.virtual_ipv4,
        ):
            return _found(address.hex(), self.certificate)
        if not self._inquire(_Inquiry(self.drops, address=address, looked_up=True), now):
            return LookedUp(address.hex(), reachable=False)
        return None

    def probe(self, peer: Peer, now: float) -> int | None:
        """Measure the path in use: the number for ``peer.round_trips``, or None while there is no tunnel."""
        number = peer.probe(now)
        if number is None:
            peer.connect(now)
        self._after_peer(peer, now)
        return number

    def forget(self, peer: Peer) -> None:
        """Drop a peer with its sessions and paths; the next packet begins anew."""
        peer.close()
        self._peers.pop(peer.certificate.node_id, None)
        self._scheduled.pop(peer.certificate.node_id, None)
        self._by_address = _without(self._by_address, peer)
        self._by_path = _without(self._by_path, peer)
        self._relayed = _without(self._relayed, peer)

    def close(self, now: float) -> None:
        """Leave the overlay: tell the NMS, forget every peer."""
        self.client.leave(now)
        self._after_client(now)
        for peer in self.peers:
            self.forget(peer)

    # Datagrams.

    def _receive_relayed(self, datagram: bytes, relay: Endpoint, now: float) -> None:
        index = decode_relayed(datagram)
        if (relay, index) not in self._relayed:
            raise NotAllowedError("unknown_relay_index")
        inner = datagram[RELAYED_HEADER_LENGTH:]
        if not inner or inner[0] == MessageType.RELAYED:
            raise MalformedError("bad_relayed")
        self._receive_from_node(inner, Destination(relay, datagram[:RELAYED_HEADER_LENGTH]), now)

    def _receive_from_node(self, datagram: bytes, via: Destination, now: float) -> None:
        kind = datagram[0]
        if kind in _SEALED:
            self._receive_sealed(datagram, via, now)
            return
        if kind in _BY_PATH_ID:
            peer = self._by_path.get(datagram[_BY_PATH_ID[MessageType(kind)]])
        elif kind == MessageType.TUNNEL_RESPONSE:
            peer = self._own.indices.get(int.from_bytes(datagram[8:12], "big"))
        elif kind in _FROM_RELAY:
            peer = self._by_path.get(datagram[8:24])
        else:
            raise MalformedError("unknown_type")
        if peer is None:
            raise NotAllowedError("unknown_path")
        if kind == MessageType.TUNNEL_REQUEST:
            peer.receive_request(datagram, via, now)
        elif kind == MessageType.TUNNEL_RESPONSE:
            peer.receive_response(datagram, via, now)
        elif kind == MessageType.HOLE_PUNCH:
            peer.receive_punch(datagram, via, now)
        elif via.prefix:
            raise NotAllowedError("unknown_relay")
        else:
            peer.receive_relay(datagram, via.endpoint, now)
            self._index_bindings(peer)
        self._after_peer(peer, now)

    def _receive_sealed(self, datagram: bytes, via: Destination, now: float) -> None:
        peer = self._own.indices.get(int.from_bytes(datagram[4:8], "big"))
        if peer is None:
            raise NotAllowedError("no_session")
        try:
            peer.receive_sealed(datagram, via, now)
        finally:
            if peer.attention:
                self._after_peer(peer, now)

    # Inquiries.

    def _inquire_for_packet(self, packet: bytes, address: bytes, now: float) -> None:
        if not self._is_overlay(address):
            self.drops["not_overlay"] += 1
            return
        if now < self._gone.get(address, -math.inf) + REFUSAL_REST:
            self.drops["peer_unreachable"] += 1
            return
        if not self._inquire(_Inquiry(self.drops, address=address), now, packet):
            self.drops["inquiries_full"] += 1

    def _is_overlay(self, address: bytes) -> bool:
        """Unicast, and not this node: what the prefix route alone does not tell (multicast, link-local)."""
        if self.certificate is None or address in (self.certificate.virtual_ipv6, self.certificate.virtual_ipv4):
            return False
        if len(address) == 16:
            return address[:6] == self.certificate.virtual_ipv6[:6]
        return address[0] < 224

    def _inquire(self, wanted: _Inquiry, now: float, packet: bytes = b"") -> bool:
        """Ask the NMS, or join what is being asked; ``packet`` waits for it.  False: not possible now."""
        asked = next((inquiry for inquiry in self._inquiries.values() if inquiry.target == wanted.target), None)
        inquiry = asked or wanted
        inquiry.looked_up |= wanted.looked_up
        if packet:
            inquiry.packets.add(packet)
        if asked is None:
            if len(self._inquiries) >= MAX_INQUIRIES or self.certificate is None:
                return False
            transaction_id = self.client.direction(fqdn=wanted.fqdn, address=wanted.address, now=now)
            self._inquiries[transaction_id] = wanted
            self._after_client(now)
        return True

    # Events of the signaling client.

    def _after_client(self, now: float) -> None:
        self.outbox.datagrams.extend(self.client.datagrams_to_send())
        events = self.client.events()
        if not events:
            return
        for event in events:
            if isinstance(event, LoggedIn):
                self.certificate = event.certificate
            elif isinstance(event, Directed):
                self._directed(event, now)
            elif isinstance(event, DirectionFailed):
                self._direction_failed(event, now)
            elif isinstance(event, PeerRevoked):
                self._revoked(event.node_id, event.generation)
            elif isinstance(event, SelfRevoked):
                for peer in self.peers:
                    self.forget(peer)
            elif isinstance(event, Registered):
                self._observed(event, now)
            elif isinstance(event, CloudUnreachable):
                pass  # established tunnels go on; what waited for an answer gets its own DirectionFailed
        self._events.extend(events)
        self.outbox.datagrams.extend(self.client.datagrams_to_send())

    def _observed(self, event: Registered, now: float) -> None:
        """Where the NMS sees this node; elsewhere than before: a router on the way has changed, for peers too."""
        before = self._seen_at.get(event.family)
        self._seen_at[event.family] = event.observed
        for peer in self.peers:
            if before is None:
                peer.reconsider = True
            elif before != event.observed:
                peer.doubt(now)
                self._after_peer(peer, now)

    def _directed(self, event: Directed, now: float) -> None:
        certificate = event.certificate
        inquiry = self._inquiries.pop(event.transaction_id, None) if event.transaction_id is not None else None
        if event.transaction_id is not None:
            self._renewals.pop(event.transaction_id, None)
        self._forget_predecessors(certificate)
        peer = self._peers.get(certificate.node_id)
        if peer is None:
            peer = Peer(certificate, self._own, self.outbox)
            peer.families = self._families
            self._peers[certificate.node_id] = peer
        for address in (certificate.virtual_ipv6, certificate.virtual_ipv4):
            if address:
                self._by_address[address] = peer
        peer.directed(event.direction, certificate, now)
        self._by_path = _without(self._by_path, peer)
        for path_id in peer.path_ids:
            self._by_path[path_id] = peer
        self._index_bindings(peer)
        if inquiry is not None:
            if inquiry.looked_up:
                self._events.append(_found(inquiry.target, certificate))
            while inquiry.packets:
                peer.send_packet(inquiry.packets.take(), now)
        self._after_peer(peer, now)

    def _direction_failed(self, event: DirectionFailed, now: float) -> None:
        peer = self._renewals.pop(event.transaction_id, None)
        if peer is not None and event.reason in _GONE and not peer.answering:
            self._forget_gone(peer, now)
        inquiry = self._inquiries.pop(event.transaction_id, None)
        if inquiry is None:
            return
        inquiry.packets.drop("peer_unreachable")
        if inquiry.looked_up:
            self._events.append(
                LookedUp(
                    inquiry.target,
                    event.fqdn,
                    event.virtual_ipv6,
                    event.virtual_ipv4,
                    event.reason,
                    reachable=event.reason is not None,
                )
            )

    def _forget_gone(self, peer: Peer, now: float) -> None:
        """It does not answer, and the NMS does not know where it is: the next packet begins anew."""
        if len(self._gone) >= MAX_INQUIRIES:
            self._gone.clear()
        for address in peer.certified:
            self._gone[address] = now
        self.forget(peer)

    def _forget_predecessors(self, certificate: Certificate) -> None:
        """A name or an address has one holder: the one of the certificate that the cloud gave last."""
        for peer in self.peers:
            known = peer.certificate
            same_node = known.node_id == certificate.node_id and known.static_key == certificate.static_key
            shared = {known.node_id, known.virtual_ipv6, known.virtual_ipv4, known.fqdn.encode()} - {b""}
            if not same_node and shared & {
                certificate.node_id,
                certificate.virtual_ipv6,
                certificate.virtual_ipv4,
                certificate.fqdn.encode(),
            }:
                self.forget(peer)

    def _revoked(self, node_id: bytes, generation: int) -> None:
        peer = self._peers.get(node_id)
        if peer is not None and peer.certificate.generation <= generation:
            self.forget(peer)

    # Keeping the tables.

    def _after_peer(self, peer: Peer, now: float, earliest: float = -math.inf) -> None:
        """Ask for the direction that the peer's machine wants, and set its timer (not before ``earliest``)."""
        node_id = peer.certificate.node_id
        if self._peers.get(node_id) is not peer:
            return
        peer.attention = False
        if peer.direction_wanted:
            peer.direction_wanted = False
            if peer.paths.silent:
                self.client.refresh(now)
            transaction_id = self.client.direction(address=peer.certificate.virtual_ipv6, now=now)
            self._renewals[transaction_id] = peer
            self.outbox.datagrams.extend(self.client.datagrams_to_send())
        deadline = max(peer.next_deadline(), earliest)
        if deadline == math.inf and peer.forgettable:
            self.forget(peer)
            return
        if deadline != self._scheduled.get(node_id, math.inf):
            self._timer_serial += 1
            self._scheduled[node_id] = deadline
            if deadline != math.inf:
                heapq.heappush(self._timers, (deadline, self._timer_serial, node_id))

    def _index_bindings(self, peer: Peer) -> None:
        self._relayed = _without(self._relayed, peer)
        for binding in peer.bindings:
            if binding.bound and binding.relay_index is not None:
                self._relayed[binding.endpoint, binding.relay_index] = peer


def _without(table: dict[K, Peer], peer: Peer) -> dict[K, Peer]:
    return {key: owner for key, owner in table.items() if owner is not peer}


def _found(target: str, certificate: Certificate) -> LookedUp:
    return LookedUp(target, certificate.fqdn, certificate.virtual_ipv6, certificate.virtual_ipv4)
