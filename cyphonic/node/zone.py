"""The overlay's zone, pure: which DNS questions are the overlay's, and what their answers look like.

Ours are names below ``<region>.<domain>`` and the reverse names of virtual addresses.  Everything else goes to the
upstream servers, byte for byte.

=============================================  ==========================================
question                                       answer
=============================================  ==========================================
A, AAAA of a node that exists                  its virtual address; without one: NODATA
another type of such a node, or of the zone    NODATA (no error, no answer, the SOA)
PTR of a virtual address                       the node's name
a name that no node has                        NXDOMAIN, the SOA
the cloud does not answer                      SERVFAIL
=============================================  ==========================================
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from cyphonic.protocol.overlay import LookedUp
from cyphonic.wire.direction import RefusalReason

TTL = 10
"""Seconds.  A question also starts the tunnel: caches must not hide it for long."""
NEGATIVE_TTL = 5
"""Seconds; a node that enrols is found soon."""

MIN_QUERY = 12
"""Bytes of a DNS header."""
MAX_UDP_ANSWER = 1232
"""Bytes, whatever the client offers: DNS flag day 2020."""

_LABEL = re.compile(rb"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IPV4_ARPA = dns.name.from_text("in-addr.arpa.")
_IPV6_ARPA = dns.name.from_text("ip6.arpa.")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Action(Enum):
    """What to do with a question."""

    DROP = auto()
    FORWARD = auto()
    ASK = auto()
    """Look the target up, then answer."""
    ANSWER = auto()
    """Everything is known: answer with the code."""


class Verdict(NamedTuple):
    """On one question."""

    action: Action
    query: dns.message.Message | None = None
    target: str | bytes = ""
    """An FQDN, or a virtual address (16 or 4 bytes)."""
    code: dns.rcode.Rcode = dns.rcode.NOERROR


FORWARD = Verdict(Action.FORWARD)
DROP = Verdict(Action.DROP)


@dataclass(frozen=True)
class Zone:
    """``name`` is ``<region>.<domain>``; ``networks`` are those of the virtual addresses."""

    name: dns.name.Name
    networks: Sequence[Network]

    @classmethod
    def of(cls, zone: str, *networks: str) -> Zone:
        """From text, as the login brings it."""
        return cls(dns.name.from_text(zone), [ipaddress.ip_network(network) for network in networks if network])

    def examine(self, wire: bytes) -> Verdict:
        """Sort a question.  Bytes that are no DNS query of one question are not ours to judge: forwarded."""
        if len(wire) < MIN_QUERY or wire[2] & 0x80:  # a response where a query should be: no loop through us
            return DROP
        try:
            query = dns.message.from_wire(wire, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError, KeyError, IndexError, AttributeError):
            return FORWARD
        if len(query.question) != 1:
            return FORWARD
        question = query.question[0]
        network = _reverse_network(question.name)
        if question.name.is_subdomain(self.name):
            verdict = self._examine_name(query, question.name)
        elif network is not None and any(_inside(network, ours) for ours in self.networks):
            verdict = self._examine_reverse(query, network)
        else:
            return FORWARD
        if query.opcode() != dns.opcode.QUERY:
            return Verdict(Action.ANSWER, query, code=dns.rcode.NOTIMP)
        if question.rdclass not in (dns.rdataclass.IN, dns.rdataclass.ANY):
            return Verdict(Action.ANSWER, query, code=dns.rcode.REFUSED)
        return verdict

    def answer(self, query: dns.message.Message, found: LookedUp) -> bytes:
        """The answer to a question that was to be asked."""
        code = _code(found)
        response = _respond(query, code)
        if code == dns.rcode.NOERROR:
            self._add_records(response, found)
        return self._finish(response)

    def answer_at_once(self, query: dns.message.Message, code: dns.rcode.Rcode) -> bytes:
        """The answer to a question that needs no look-up, or will get none."""
        response = _respond(query, code)
        question = query.question[0]
        if code == dns.rcode.NOERROR and question.name == self.name and question.rdtype == dns.rdatatype.SOA:
            response.answer.append(self._soa())
        return self._finish(response)

    def reverse_domains(self) -> list[str]:
        """Names of the reverse zones, for a resolver that routes by domain; only networks that fill a zone."""
        domains = []
        for network in self.networks:
            step = 8 if network.version == 4 else 4
            if network.prefixlen % step == 0:
                labels = network.network_address.reverse_pointer.split(".")
                domains.append(".".join(labels[(network.max_prefixlen - network.prefixlen) // step :]))
        return domains

    def _examine_name(self, query: dns.message.Message, name: dns.name.Name) -> Verdict:
        labels = name.relativize(self.name).labels
        if not labels:
            return Verdict(Action.ANSWER, query)
        if len(labels) > 1 or not _LABEL.fullmatch(labels[0].lower()):
            return Verdict(Action.ANSWER, query, code=dns.rcode.NXDOMAIN)
        return Verdict(Action.ASK, query, name.to_text(omit_final_dot=True).lower())

    def _examine_reverse(self, query: dns.message.Message, network: Network) -> Verdict:
        if network.prefixlen == network.max_prefixlen:
            return Verdict(Action.ASK, query, network.network_address.packed)
        return Verdict(Action.ANSWER, query)  # between the zone and an address: nothing there, but it exists

    def _add_records(self, response: dns.message.Message, found: LookedUp) -> None:
        question = response.question[0]
        any_type = question.rdtype == dns.rdatatype.ANY
        reverse = _reverse_network(question.name) is not None
        records = {
            dns.rdatatype.PTR: found.fqdn + "." if reverse and found.fqdn else "",
            dns.rdatatype.AAAA: _text(found.virtual_ipv6) if not reverse else "",
            dns.rdatatype.A: _text(found.virtual_ipv4) if not reverse else "",
        }
        for kind, text in records.items():
            if text and (any_type or kind == question.rdtype):
                response.answer.append(dns.rrset.from_text(question.name, TTL, dns.rdataclass.IN, kind, text))

    def _finish(self, response: dns.message.Message) -> bytes:
        negative = response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN) and not response.answer
        if negative:
            response.authority.append(self._soa())
        return response.to_wire(max_size=MAX_UDP_ANSWER)

    def _soa(self) -> dns.rrset.RRset:
        zone = self.name.to_text()
        text = f"{zone} hostmaster.{zone} 1 3600 600 86400 {NEGATIVE_TTL}"
        return dns.rrset.from_text(self.name, NEGATIVE_TTL, dns.rdataclass.IN, dns.rdatatype.SOA, text)


def server_failure(wire: bytes) -> bytes:
    """SERVFAIL to any query of at least 12 bytes.

    The question is repeated where it can be made out: glibc takes no answer without it.
    """
    question = _first_question(wire)
    flags = bytes([wire[2] & 0x79 | 0x80, 0x80 | dns.rcode.SERVFAIL])  # opcode and RD stay; QR and RA are set
    return wire[:2] + flags + bytes([0, 1 if question else 0]) + bytes(6) + question


def _first_question(wire: bytes) -> bytes:
    """Name, type and class as they stand in the query; empty when they cannot be made out."""
    position = MIN_QUERY
    while position < len(wire) and 0 < wire[position] < 64:
        position += 1 + wire[position]
    end = position + 5
    return wire[MIN_QUERY:end] if end <= len(wire) and wire[position] == 0 else b""


def _respond(query: dns.message.Message, code: dns.rcode.Rcode) -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True, our_payload=MAX_UDP_ANSWER)
    response.flags |= dns.flags.AA
    response.set_rcode(code)
    return response


def _code(found: LookedUp) -> dns.rcode.Rcode:
    if not found.reachable or found.reason == RefusalReason.STALE:
        return dns.rcode.SERVFAIL
    if found.virtual_ipv6 or found.virtual_ipv4:  # an offline node still has a name and addresses
        return dns.rcode.NOERROR
    return dns.rcode.NXDOMAIN


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address)) if address else ""


def _reverse_network(name: dns.name.Name) -> Network | None:
    """What a name in ip6.arpa or in-addr.arpa stands for: an address, or the network that its labels fill."""
    if name.is_subdomain(_IPV4_ARPA):
        return _ipv4_network(name.relativize(_IPV4_ARPA).labels[::-1])
    if name.is_subdomain(_IPV6_ARPA):
        return _ipv6_network(name.relativize(_IPV6_ARPA).labels[::-1])
    return None


def _ipv4_network(labels: Sequence[bytes]) -> Network | None:
    if not 0 < len(labels) <= 4 or not all(re.fullmatch(rb"\d{1,3}", label) for label in labels):
        return None
    octets = [int(label) for label in labels]
    if max(octets) > 255:
        return None
    return ipaddress.IPv4Network((bytes(octets).ljust(4, b"\0"), 8 * len(octets)))


def _ipv6_network(labels: Sequence[bytes]) -> Network | None:
    if not 0 < len(labels) <= 32 or not all(re.fullmatch(rb"[0-9a-fA-F]", label) for label in labels):
        return None
    packed = bytes.fromhex(b"".join(labels).ljust(32, b"0").decode())
    return ipaddress.IPv6Network((packed, 4 * len(labels)))


def _inside(network: Network, ours: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(ours, ipaddress.IPv4Network) and network.subnet_of(ours)
    return isinstance(ours, ipaddress.IPv6Network) and network.subnet_of(ours)
