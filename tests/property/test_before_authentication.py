"""Before authentication: no reply is longer than its request, and nobody's state grows.

Every way by which a stranger can be answered at a frontend and at a relay; what workers do with strangers is in
``tests/integration/workers/test_strangers.py``, since it takes a Redis.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cyphonic.errors import DropError
from cyphonic.frontend.admission import MIN_LENGTH, REQUESTS, Admission, OtherVersionError
from cyphonic.frontend.gate import Gate, TurnedAwayError
from cyphonic.protocol.cookie import CookieMint
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.relay.bindings import BindingTable, Way
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MAX_CONTROL_DATAGRAM, MessageType, SignalingHeader
from cyphonic.wire.job import Service
from cyphonic.wire.login import LOGIN_REQUEST_LENGTH
from cyphonic.wire.relay import MAX_TOKEN_LENGTH, MIN_TOKEN_LENGTH

SERVICE = KeyPair.generate(random.Random(9).randbytes)
KEY = mac1_key(SERVICE.public)
WALL = 1_800_000_000.0

sources = st.one_of(
    st.builds(lambda host: Endpoint(host, 4000), st.ip_addresses(v=4).map(str)),
    st.builds(lambda host: Endpoint(host, 4000), st.ip_addresses(v=6).map(str)),
)
bodies = st.binary(min_size=28, max_size=MAX_CONTROL_DATAGRAM - 72)


@st.composite
def requests(draw: st.DrawFn, service: Service) -> bytes:
    """Of the service's types, now and then of another version, with the right MAC1 and any MAC2."""
    kind = draw(st.sampled_from(sorted(REQUESTS[service])))
    body = draw(bodies)
    if kind is MessageType.LOGIN_REQUEST:
        body = body.ljust(LOGIN_REQUEST_LENGTH - 72, b"\0")[: LOGIN_REQUEST_LENGTH - 72]
    header = bytearray(SignalingHeader(kind, 1, draw(st.binary(min_size=16, max_size=16)), bytes(16)).encode())
    header[1] = draw(st.sampled_from((1, 1, 1, 0, 2, 255)))
    datagram = append_macs(bytes(header) + body, KEY)
    return datagram[:-16] + draw(st.sampled_from((bytes(16), b"\1" * 16)))


def sizes(thing: Any) -> dict[str, int]:
    """Of every container that an object holds, and of what those hold."""
    found = {}
    for name, value in vars(thing).items():
        if hasattr(value, "__len__"):
            found[name] = len(value)
        elif hasattr(value, "__dict__"):
            found.update({f"{name}.{inner}": size for inner, size in sizes(value).items()})
    return found


@given(service=st.sampled_from(Service), loaded=st.booleans(), source=sources, data=st.data())
def test_no_frontend_answers_a_stranger_with_more_than_was_asked_or_remembers_it(
    service: Service, loaded: bool, source: Endpoint, data: st.DataObject
) -> None:
    gate, admission = Gate(100.0, random.Random(1).randbytes), Admission(service, SERVICE.public)
    mint = CookieMint(b"s" * 32, SERVICE.public, random.Random(2).randbytes)
    gate.counts.update(cookie=0, busy=0, version_hint=0)
    if loaded:
        gate.gauge.overloaded(0.0)
    before = sizes(gate)
    for _ in range(4):
        datagram = data.draw(requests(service))
        answer = None
        try:
            admission.admit(datagram)
            known = gate.admit(datagram, source.encode(), mint, 1.0, WALL)
            assert not known
            answer = gate.busy(SignalingHeader.decode(datagram), 1.0)  # as when the queue has no place for it
        except TurnedAwayError as drop:
            answer = drop.answer
        except OtherVersionError:
            answer = gate.version_hint(datagram, 1.0)
        except DropError:
            pass
        assert answer is None or len(answer) <= len(datagram)
    assert sizes(gate) == before
    assert vars(mint).keys() == {"fleet_secret", "_key", "_chance", "_of_slot"}


@given(datagram=st.binary(max_size=1300), source=sources, loaded=st.booleans())
def test_garbage_is_never_answered_but_by_a_version_hint(datagram: bytes, source: Endpoint, loaded: bool) -> None:
    gate, admission = Gate(100.0, random.Random(1).randbytes), Admission(Service.NMS, SERVICE.public)
    if loaded:
        gate.gauge.overloaded(0.0)
    try:
        admission.admit(datagram)
    except OtherVersionError:
        assert len(datagram) >= MIN_LENGTH
        hint = gate.version_hint(datagram, 1.0)
        assert hint is not None
        assert len(hint) <= len(datagram)
    except DropError:
        pass
    else:
        raise AssertionError("a right MAC1 by chance")


@given(
    token=st.binary(min_size=MIN_TOKEN_LENGTH, max_size=MAX_TOKEN_LENGTH),
    challenge=st.sampled_from((bytes(16), b"\1" * 16)),
    mac2=st.sampled_from((bytes(16), b"\1" * 16)),
    source=sources,
    loaded=st.booleans(),
)
def test_no_relay_answers_a_stranger_with_more_than_was_asked_or_remembers_it(
    token: bytes, challenge: bytes, mac2: bytes, source: Endpoint, loaded: bool
) -> None:
    table = BindingTable(SERVICE, SERVICE.public, random.Random(1).randbytes)
    if loaded:
        table._gauge.overloaded(0.0)
    before = sizes(table)
    kind = MessageType.RELAY_BIND_ANSWER if any(challenge) else MessageType.RELAY_BIND
    bind = bytes((kind, 1, 0, 0, 0, 0, 0, 1)) + bytes(16) + challenge + token + bytes(16)
    datagram = append_macs(bind, KEY)[:-16] + mac2
    answer = table.receive(datagram, Way(source, ""), 1.0, WALL)
    assert answer is None or (loaded and len(answer) <= len(datagram))
    if answer is None:
        before["drops"] += 1
    assert sizes(table) == before
