"""Answering probes: stateless, at a limited rate for each source and for all.

Pure: the server performs what this decides.

A probe asks from where the relay sees it.  It may ask for the reply from the relay's other port, or to another
endpoint that has just shown, by a ticket, that it listens to a relay of this site: from what arrives a node learns
what its NAT lets in (RFC 4787 §5, RFC 5780 §4.4).  Nobody else can be made a target: a ticket reaches only the
endpoint that it names, and a reply is shorter than its probe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from socket import AddressFamily
from typing import NamedTuple

from cyphonic.errors import DropError, MalformedError, NotAllowedError
from cyphonic.protocol.buckets import SourceBuckets, TokenBucket
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.mac import NO_MAC, check_mac1, mac1_key
from cyphonic.protocol.probe import check_ticket, ticket_key, write_probe_reply, write_ticket
from cyphonic.relay.bindings import Way
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAC_LENGTH
from cyphonic.wire.probe import NO_TICKET, RelayProbe, RelayProbeReply

PROBE_RATE = 2000.0
"""Probes answered per second, all nodes together: each costs some 20 µs."""
SOURCE_RATE, SOURCE_BURST = 50.0, 300.0
"""The same from one IPv4 address or IPv6 /64, and at once: ``netcheck`` sends some hundred in two seconds."""


class ProbeAnswer(NamedTuple):
    """A reply to be sent."""

    datagram: bytes
    way: Way
    other_port: bool
    """From the relay's other port."""


@dataclass
class ProbeResponder:
    """Answers the probes of one relay process; drops are counted, nothing is raised.

    ``other_ports``: the second UDP port of each family, where there is one.  ``now`` is monotonic, ``wall`` unix
    seconds.
    """

    relay: KeyPair
    chance: Chance
    drops: Counter[str]
    other_ports: Mapping[AddressFamily, int] = field(default_factory=dict)
    rate: float = PROBE_RATE

    def __post_init__(self) -> None:
        self._mac1_key = mac1_key(self.relay.public)
        self._ticket_key = ticket_key(self.relay.secret)
        self._bucket = TokenBucket(self.rate, max(1.0, self.rate))
        self._sources = SourceBuckets(SOURCE_RATE, SOURCE_BURST, self.chance)

    def receive(self, datagram: bytes, source: Way, now: float, wall: float) -> ProbeAnswer | None:
        """The answer to a RelayProbe."""
        try:
            return self._receive(datagram, source, now, wall)
        except DropError as drop:
            self.drops[drop.reason] += 1
            return None

    def _receive(self, datagram: bytes, source: Way, now: float, wall: float) -> ProbeAnswer:
        probe = RelayProbe.decode(datagram)
        check_mac1(datagram, self._mac1_key)
        if datagram[-MAC_LENGTH:] != NO_MAC:  # no cookie is asked for here
            raise MalformedError("bad_mac2")
        if not self._sources.take(source.remote.encode(), now):
            raise NotAllowedError("source_rate")
        if not self._bucket.take(1, now):
            raise NotAllowedError("control_overload")
        target = source.remote if probe.elsewhere is None else self._elsewhere(probe, probe.elsewhere, source, wall)
        port = self.other_ports.get(source.remote.family, 0)
        if probe.other_port and not port:
            raise NotAllowedError("no_other_port")
        # To nobody but the endpoint itself: whoever could ask for the ticket of another could flood it.
        ticket = write_ticket(self._ticket_key, source.remote, wall) if target == source.remote else NO_TICKET
        reply = RelayProbeReply(probe.nonce, source.remote, port, ticket, probe.other_port)
        return ProbeAnswer(write_probe_reply(reply, self._mac1_key), Way(target, source.local), probe.other_port)

    def _elsewhere(self, probe: RelayProbe, target: Endpoint, source: Way, wall: float) -> Endpoint:
        check_ticket(probe.ticket, self._ticket_key, target, wall)
        if target.family != source.remote.family:
            raise NotAllowedError("no_socket")
        return target
