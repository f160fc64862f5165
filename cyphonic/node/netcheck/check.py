"""The questions, in order, for each address family.

1. How far is each relay, and from where does it see us?  (One socket to all: the mapping.)
2. What comes in?  A fresh socket contacts one relay.  An answer is asked for from that relay's other port, and,
   by a second socket, from another relay to the first socket's place outside, with its ticket.
3. Does the NAT lead its own outside address back inside (hairpin)?
4. How long may a packet be?
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from cyphonic.node.netcheck.behaviour import Finding, classify_filtering, classify_mapping
from cyphonic.node.netcheck.gateway import check_gateway
from cyphonic.node.netcheck.prober import ProbeSocket, Question, Relay, ask
from cyphonic.node.netcheck.report import FamilyCheck, Netcheck, PortMappingCheck, RelayCheck, Udp
from cyphonic.node.underlay import Underlay
from cyphonic.wire.endpoint import Endpoint

FAMILIES = ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6"))
_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Bytes of IP and UDP."""
MAX_MTU, MIN_MTU = 1500, 1248
MTU_STEPS = (28, 4, 1)
"""Bytes."""
MTU_PATIENCE = 1.0
HAIRPIN_PATIENCE = 0.5
TCP_PATIENCE = 1.0
_ROUTELESS = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN}

Tell = Callable[[str], None]


def run_netcheck(
    relays: Sequence[Relay], underlay: Underlay, *, daemon: bool, mapped: str, registered: bool, tell: Tell
) -> Netcheck:
    """Takes some seconds; ``tell`` hears what is being done.  ``registered``: the daemon reaches the cloud."""
    families, measured = [], []
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(check_gateway, underlay)
        for family, name in FAMILIES:
            ours = [relay for relay in relays if relay.endpoint.family == family]
            tell(f"asking relays over {_spoken(name)}")
            check, answers = _check_family(family, name, ours, underlay)
            families.append(check)
            measured += answers
        tell("asking the gateway")
        gateway = asked.result()
    measured.sort(key=lambda relay: (relay.rtt is None, relay.rtt))
    udp, text = _verdict(families, relays, registered)
    return Netcheck(
        udp,
        text,
        daemon,
        families,
        measured,
        PortMappingCheck(gateway.gateway, gateway.protocols, gateway.why, mapped),
    )


def _check_family(
    family: socket.AddressFamily, name: str, relays: Sequence[Relay], underlay: Underlay
) -> tuple[FamilyCheck, list[RelayCheck]]:
    spoken: Callable[..., FamilyCheck] = lambda **found: FamilyCheck(name, **found)  # type: ignore[arg-type]  # noqa: E731
    if not relays:
        there = any((":" in host) == (family == socket.AF_INET6) for host in underlay.hosts)
        why = "no relay of this family is known" if there else "this machine has no such address"
        return spoken(works=False, why=why), []
    with ProbeSocket(family) as probe:
        questions = [Question(probe, relay) for relay in relays]
        ask(questions, every_time=True)
        answered = [question for question in questions if question.answer is not None]
        measured = [
            RelayCheck(str(one.relay.endpoint), one.answer.rtt if one.answer else None) for one in questions
        ]
        if not answered:
            routeless = all(question.error in _ROUTELESS for question in questions)
            why = "no route" if routeless else f"none of {len(relays)} relays answers"
            return spoken(works=False, why=why), measured
        answered.sort(key=_distance)
        observed = _observed_by_all(probe, answered)
        mapping = classify_mapping(observed)
        nearest = answered[0]
        local = _local_address(nearest.relay.endpoint)
        seen = observed[nearest.relay.endpoint]
        nat = (local, probe.port) != seen
    filtering = _check_filtering(family, answered)
    return spoken(
        works=True,
        local=local,
        observed=str(seen),
        nat=nat,
        mapping=mapping.kind.value,
        mapping_why=mapping.why,
        filtering=filtering.kind.value,
        filtering_why=filtering.why,
        hairpin=_check_hairpin(family, nearest.relay) if nat else None,
        mtu=_check_mtu(family, nearest.relay),
    ), measured


def _distance(question: Question) -> float:
    assert question.answer is not None
    return question.answer.rtt


def _observed_by_all(probe: ProbeSocket, answered: Sequence[Question]) -> dict[Endpoint, Endpoint]:
    """From where every relay sees the socket, at its other port too."""
    others = [
        Question(probe, one.relay.at_port(one.answer.reply.other_port))
        for one in answered
        if one.answer is not None and one.answer.reply.other_port
    ]
    ask(others)
    return {one.relay.endpoint: one.answer.reply.observed for one in (*answered, *others) if one.answer is not None}


def _check_filtering(family: socket.AddressFamily, answered: Sequence[Question]) -> Finding:
    first = answered[0]
    assert first.answer is not None
    stranger = next((one.relay for one in answered if one.relay.endpoint.host != first.relay.endpoint.host), None)
    with ProbeSocket(family) as inside, ProbeSocket(family) as second:
        contact = Question(inside, first.relay)
        ask([contact])
        if contact.answer is None:
            return classify_filtering(other_port=None, other_address=None)
        reply = contact.answer.reply
        by_port = Question(inside, first.relay, other_port=True) if reply.other_port else None
        by_address = None
        if stranger is not None:
            by_address = Question(second, stranger, elsewhere=reply.observed, ticket=reply.ticket, listener=inside)
        # What is filtered never comes: the time that any answer takes says how long to wait for it.
        ask([one for one in (by_port, by_address) if one is not None], patience=1.0 + 3 * contact.answer.rtt)
    return classify_filtering(other_port=_came(by_port), other_address=_came(by_address))


def _came(question: Question | None) -> bool | None:
    return None if question is None else question.answer is not None


def _check_hairpin(family: socket.AddressFamily, relay: Relay) -> bool | None:
    with ProbeSocket(family) as target, ProbeSocket(family) as sender:
        contact = Question(target, relay)
        ask([contact])
        if contact.answer is None:
            return None
        token = os.urandom(16)
        for _ in range(2):
            sender.send(token, contact.answer.reply.observed)
            if select.select([target], [], [], HAIRPIN_PATIENCE)[0]:
                arrival = target.receive()
                if arrival is not None and arrival[0] == token:
                    return True
    return False


def _check_mtu(family: socket.AddressFamily, relay: Relay) -> int | None:
    """All sizes of a scale at once; then those of a finer one, between the longest that passes and the next."""
    low, high, longest = MIN_MTU, MAX_MTU, None
    for step in MTU_STEPS:
        passed = _passes(family, relay, range(low, high + 1, step))
        if not passed:
            break
        longest = max(passed)
        low, high = longest, min(longest + step - 1, MAX_MTU)
        if longest == MAX_MTU:
            break
    return longest


def _passes(family: socket.AddressFamily, relay: Relay, sizes: Sequence[int]) -> list[int]:
    with ProbeSocket(family, dont_fragment=True) as probe:
        questions = [Question(probe, relay, length=size - _HEADERS[family]) for size in sizes]
        ask(questions, patience=MTU_PATIENCE)
    return [size for size, question in zip(sizes, questions, strict=True) if question.answer is not None]


def _verdict(families: Sequence[FamilyCheck], relays: Sequence[Relay], registered: bool) -> tuple[Udp, str]:
    if any(family.works for family in families):
        working = " and ".join(_spoken(family.family) for family in families if family.works)
        return "works", f"UDP works over {working}"
    if not relays:
        return "no-relay", "no relay is known: the cloud has none, or this node has never been up"
    if all(family.why in ("no route", "this machine has no such address") for family in families):
        return "no-network", "there is no way out of this machine to any relay"
    if registered:
        return (
            "unanswered",
            "no relay answers, though the cloud does: relays are down, or their port is blocked",
        )
    if any(_answers_tcp(relay.endpoint) for relay in relays):
        return "blocked", "UDP is blocked: relays can be reached by TCP, but nothing comes back by UDP"
    return "unanswered", "no relay answers, neither UDP nor TCP: the cloud is down, or a firewall is in between"


def _answers_tcp(endpoint: Endpoint) -> bool:
    """A refusal is an answer too: the host is there."""
    try:
        with socket.create_connection(endpoint, TCP_PATIENCE):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False


def _local_address(towards: Endpoint) -> str:
    with socket.socket(towards.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(towards)
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _spoken(family: str) -> str:
    return {"ipv4": "IPv4", "ipv6": "IPv6"}[family]
