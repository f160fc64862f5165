"""Every message of the wire, to the byte.  The files in ``tests/vectors`` are added to, never edited.

A message that changes is another version of the protocol.  To add the file of a new message, run this with
``CYPHONIC_ADD_VECTORS=1``; files that exist are never written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest

from cyphonic.protocol.certificate import read_certificate, sign_certificate
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.cookie import CookieMint, add_mac2, cookie_key, open_cookie
from cyphonic.protocol.distribution import open_distribution, seal_distribution
from cyphonic.protocol.handshake import TunnelInitiator, read_tunnel_request, write_tunnel_response
from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.protocol.login import LoginInitiator, read_login_request, write_login_response
from cyphonic.protocol.mac import append_macs, append_path_mac, mac, mac1_key, path_mac_key, strip_macs
from cyphonic.protocol.probe import read_probe_reply, ticket_key, write_probe, write_probe_reply, write_ticket
from cyphonic.protocol.session import Session
from cyphonic.protocol.signaling import open_signaling, seal_signaling
from cyphonic.protocol.token import open_token, seal_token
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.codec import Body, decode, encode
from cyphonic.wire.direction import (
    DirectionRefused,
    DirectionRequest,
    FirstPath,
    RefusalReason,
    RelayGrant,
    Role,
    RouteDirection,
    RouteDirectionConfirmation,
)
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import NO_NODE, MessageType, SignalingHeader, encode_relayed
from cyphonic.wire.hint import HINTS, encode_hint, encode_version_hint
from cyphonic.wire.job import Batch, Job, Origin, Report, Route, Send
from cyphonic.wire.login import KeyDistribution, KeyDistributionAck, LoginOutcome, LoginRequest, LoginResponse
from cyphonic.wire.probe import RelayProbe, RelayProbeReply
from cyphonic.wire.registration import (
    KeepAlive,
    KeepAliveAck,
    Leave,
    MeasuredRegistration,
    RegistrationRequest,
    RegistrationResponse,
    RelayAddress,
    RelayRoundTrip,
)
from cyphonic.wire.relay import NO_CHALLENGE, RelayBind, RelayBindChallenge, RelayBound, RelayToken
from cyphonic.wire.revocation import PathRevocation, PathRevocationAck, RevocationOrder
from cyphonic.wire.tunnel import (
    HolePunch,
    Suite,
    TunnelRequestPayload,
    TunnelResponsePayload,
    encode_path_check,
    encode_path_check_ack,
)

FOLDER = Path(__file__).parents[2] / "vectors"


def fixed(name: str) -> Chance:
    """Chance that is the same in every run: SHAKE-256 of ``name`` and a count."""
    calls = iter(range(1000))
    return lambda length: hashlib.shake_256(f"cyphonic vector {name} {next(calls)}".encode()).digest(length)


def some(name: str, length: int) -> bytes:
    return fixed(name)(length)


ALICE, BOB, AS, NMS, RELAY = (KeyPair.generate(fixed(name)) for name in ("alice", "bob", "as", "nms", "relay"))
AS_SIGNING = SigningKeyPair.generate(fixed("as signing"))
NODE_ID, TRANSACTION, HANDLE, PATH_ID = (some(name, 16) for name in ("node", "transaction", "handle", "path"))
COMMON_KEY, PATH_KEY, BIND_KEY = (some(name, 32) for name in ("common key", "path key", "bind key"))
IPV4, IPV6 = Endpoint("192.0.2.1", 50443), Endpoint("2001:db8::1", 50443)
TIME = 1_800_000_000_000
VIRTUAL_IPV6, VIRTUAL_IPV4 = bytes.fromhex("fd000000000100000000000000000001"), bytes([10, 77, 0, 1])

CERTIFICATE = Certificate(
    "alice.home.example", NODE_ID, ALICE.public, VIRTUAL_IPV6, VIRTUAL_IPV4, [], 1_800_086_400, 1
)
SIGNED_CERTIFICATE = sign_certificate(CERTIFICATE, AS_SIGNING)
TOKEN = RelayToken(PATH_ID, Role.INITIATOR, BIND_KEY, 1_800_000_300, 12_500_000)
SEALED_TOKEN = seal_token(TOKEN, NMS, RELAY.public, fixed("token"))
ENDPOINTS = [IPV4.encode(), IPV6.encode()]

SIGNALING: dict[MessageType, Body] = {
    MessageType.REGISTRATION_REQUEST: RegistrationRequest(7, ENDPOINTS, SIGNED_CERTIFICATE, 0),
    MessageType.REGISTRATION_RESPONSE: RegistrationResponse(
        IPV4.encode(), VIRTUAL_IPV6, VIRTUAL_IPV4, 20, 75, TIME, ENDPOINTS, [RelayAddress(RELAY.public, ENDPOINTS)]
    ),
    MessageType.KEEP_ALIVE: KeepAlive(8),
    MessageType.KEEP_ALIVE_ACK: KeepAliveAck(IPV4.encode(), True, TIME),
    MessageType.DIRECTION_REQUEST: DirectionRequest(TIME, "bob.home.example", b""),
    MessageType.ROUTE_DIRECTION: RouteDirection(
        HANDLE,
        PATH_ID,
        Role.RESPONDER,
        FirstPath.DIRECT_PUNCHED,
        SIGNED_CERTIFICATE,
        ENDPOINTS,
        PATH_KEY,
        3600,
        [RelayGrant(RELAY.public, ENDPOINTS, SEALED_TOKEN, BIND_KEY)],
        TIME,
    ),
    MessageType.ROUTE_DIRECTION_CONFIRMATION: RouteDirectionConfirmation(HANDLE),
    MessageType.DIRECTION_REFUSED: DirectionRefused(
        RefusalReason.OFFLINE, "bob.home.example", VIRTUAL_IPV6, VIRTUAL_IPV4, TIME
    ),
    MessageType.PATH_REVOCATION: PathRevocation(NODE_ID, 2),
    MessageType.PATH_REVOCATION_ACK: PathRevocationAck(NODE_ID),
    MessageType.LEAVE: Leave(9),
}
DISTRIBUTION: dict[MessageType, Body] = {
    MessageType.KEY_DISTRIBUTION: KeyDistribution(ALICE.public, "alice.home.example", COMMON_KEY, 1, 1),
    MessageType.KEY_DISTRIBUTION_ACK: KeyDistributionAck(
        ALICE.public, 1, LoginOutcome.ACCEPTED, NODE_ID, VIRTUAL_IPV6, VIRTUAL_IPV4
    ),
    MessageType.REVOCATION_ORDER: RevocationOrder(NODE_ID),
}
LOGIN_REQUEST = LoginRequest(TIME * 10**6, "alice", some("enrolment key", 32), [2, 1], "cyphonic 0.1.0")
LOGIN_RESPONSE = LoginResponse(
    LoginOutcome.ACCEPTED,
    COMMON_KEY,
    1,
    86400,
    SIGNED_CERTIFICATE,
    NMS.public,
    ENDPOINTS,
    ENDPOINTS,
    "fd00:0:1::/48",
    "10.77.0.0/16",
    TIME,
)
TICKET = write_ticket(ticket_key(RELAY.secret), IPV4, TIME / 1000)
PROBE = RelayProbe(some("probe", 16), other_port=True, elsewhere=IPV4, ticket=TICKET)
PROBE_REPLY = RelayProbeReply(PROBE.nonce, IPV4, 50444, TICKET, from_other_port=True)
MEASURED_REGISTRATION = MeasuredRegistration(
    7, ENDPOINTS, SIGNED_CERTIFICATE, 0, [RelayRoundTrip(IPV4.encode(), 12), RelayRoundTrip(IPV6.encode(), 0xFFFF)]
)
ROUTE = Route("192.0.2.10", 443, "192.0.2.1", 50443)
BATCH = Batch("frontend-1", 3, [Job(some("job", 60), Origin.UDP, ROUTE)])
REPORT = Report("worker-1", "ipc:///run/w1", b"", [0, 1], 4, [3], [Send(some("answer", 60), ROUTE)], [b"job"])
TUNNEL_REQUEST = TunnelRequestPayload(TIME * 10**6, [Suite.AES_256_GCM, Suite.CHACHA20_POLY1305])
BODIES: list[Body] = [
    *SIGNALING.values(),
    *DISTRIBUTION.values(),
    LOGIN_REQUEST,
    LOGIN_RESPONSE,
    MEASURED_REGISTRATION,
    CERTIFICATE,
    TOKEN,
    BATCH,
    REPORT,
    TUNNEL_REQUEST,
    TunnelResponsePayload(Suite.AES_256_GCM, 0x22222222),
]


def signaling_header(message_type: MessageType) -> SignalingHeader:
    return SignalingHeader(message_type, 1, NODE_ID, TRANSACTION)


def login() -> tuple[LoginInitiator, bytes, bytes]:
    initiator = LoginInitiator(ALICE, AS.public, fixed("login request"))
    request = initiator.request(TRANSACTION, LOGIN_REQUEST)
    attempt = read_login_request(strip_macs(request), AS)
    return initiator, request, write_login_response(attempt, LOGIN_RESPONSE, fixed("login response"))


def tunnel(suite: Suite = Suite.AES_256_GCM) -> tuple[bytes, bytes, Session, Session]:
    initiator = TunnelInitiator(ALICE, BOB.public, PATH_ID, PATH_KEY, 0x11111111, fixed("tunnel request"))
    request = initiator.request(TUNNEL_REQUEST.stamp, [Suite(number) for number in TUNNEL_REQUEST.suites])
    attempt = read_tunnel_request(request, BOB, PATH_KEY)
    response, bobs = write_tunnel_response(attempt, PATH_KEY, 0x22222222, suite, fixed("tunnel response"))
    return request, response, initiator.read_response(response), bobs


def bind(challenge: bytes) -> bytes:
    message = RelayBind(Role.INITIATOR, 1, PATH_ID, challenge, SEALED_TOKEN).encode()
    return append_macs(message + mac(BIND_KEY, message), mac1_key(RELAY.public))


def bind_challenge() -> bytes:
    message = RelayBindChallenge(Role.INITIATOR, 1, PATH_ID, some("challenge", 16)).encode()
    return message + mac(BIND_KEY, message)


def bound() -> bytes:
    message = RelayBound(Role.INITIATOR, 1, PATH_ID, 0x33333333, 300, IPV4).encode()
    return message + mac(BIND_KEY, message)


def sealed(message_type: MessageType, plaintext: bytes, suite: Suite = Suite.AES_256_GCM) -> bytes:
    return tunnel(suite)[2].seal(message_type, plaintext)


def asked() -> bytes:
    """A keepalive as it leaves a node without a cookie."""
    return append_macs(read_vector("keep_alive"), mac1_key(NMS.public))


SLOT = int(TIME / 1000 // 120)
COOKIE = mac(mac(some("fleet", 32), SLOT.to_bytes(8, "big")), IPV4.encode())

MESSAGES: dict[str, Callable[[], bytes]] = {
    "tunnel_request": lambda: tunnel()[0],
    "tunnel_response": lambda: tunnel()[1],
    "hole_punch": lambda: append_path_mac(HolePunch(Role.RESPONDER, 1, PATH_ID).encode(), path_mac_key(PATH_KEY)),
    "capsule": lambda: sealed(MessageType.CAPSULE, b"a packet"),
    "capsule_chacha20": lambda: sealed(MessageType.CAPSULE, b"a packet", Suite.CHACHA20_POLY1305),
    "path_check": lambda: sealed(MessageType.PATH_CHECK, encode_path_check(5)),
    "path_check_ack": lambda: sealed(MessageType.PATH_CHECK_ACK, encode_path_check_ack(5, IPV6)),
    "relayed": lambda: encode_relayed(0x33333333) + sealed(MessageType.CAPSULE, b"a packet"),
    "relay_bind": lambda: bind(NO_CHALLENGE),
    "relay_bind_challenge": bind_challenge,
    "relay_bind_answer": lambda: bind(some("challenge", 16)),
    "relay_bound": bound,
    "relay_probe": lambda: write_probe(PROBE, mac1_key(RELAY.public), 120),
    "relay_probe_reply": lambda: write_probe_reply(PROBE_REPLY, mac1_key(RELAY.public)),
    "registration_request_measured": lambda: seal_signaling(
        signaling_header(MessageType.REGISTRATION_REQUEST), MEASURED_REGISTRATION, COMMON_KEY, fixed("measured")
    ),
    "login_request": lambda: login()[1],
    "login_response": lambda: login()[2],
    "certificate": lambda: SIGNED_CERTIFICATE,
    "relay_token": lambda: SEALED_TOKEN,
    "batch": lambda: encode(BATCH),
    "report": lambda: encode(REPORT),
    **{
        kind.name.lower(): lambda kind=kind, body=body: seal_signaling(  # type: ignore[misc]
            signaling_header(kind), body, COMMON_KEY, fixed(kind.name)
        )
        for kind, body in SIGNALING.items()
    },
    **{
        kind.name.lower(): lambda kind=kind, body=body: seal_distribution(  # type: ignore[misc]
            kind, TRANSACTION, body, AS, NMS.public, fixed(kind.name)
        )
        for kind, body in DISTRIBUTION.items()
    },
    "keep_alive_with_cookie": lambda: add_mac2(asked(), COOKIE),
    "cookie_reply": lambda: CookieMint(some("fleet", 32), NMS.public, fixed("cookie")).reply(
        asked(), IPV4.encode(), TIME / 1000
    ),
    "version_hint_to_another": lambda: encode_version_hint(b"\x32\x07" + asked()[2:]),
    **{
        kind.name.lower(): lambda kind=kind: encode_hint(kind, signaling_header(MessageType.KEEP_ALIVE))  # type: ignore[misc]
        for kind in HINTS
    },
}


def read_vector(name: str) -> bytes:
    return bytes.fromhex((FOLDER / f"{name}.hex").read_text())


def add_vector(name: str, data: bytes) -> None:
    text = data.hex()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    with (FOLDER / f"{name}.hex").open("x") as file:
        file.write("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_a_message_is_spelled_as_it_always_was(name: str) -> None:
    data = MESSAGES[name]()
    if os.environ.get("CYPHONIC_ADD_VECTORS") and not (FOLDER / f"{name}.hex").exists():
        add_vector(name, data)
    assert read_vector(name) == data


def test_every_type_of_the_wire_has_a_vector() -> None:
    assert {kind.name.lower() for kind in MessageType} <= set(MESSAGES)
    assert {path.stem for path in FOLDER.glob("*.hex")} == set(MESSAGES)


def test_no_control_datagram_needs_fragments() -> None:
    assert max(len(read_vector(kind.name.lower())) for kind in SIGNALING) + 32 <= 1200


@pytest.mark.parametrize("kind", SIGNALING, ids=lambda kind: kind.name)
def test_the_signaling_vectors_open(kind: MessageType) -> None:
    data = read_vector(kind.name.lower())
    header = SignalingHeader.decode(data)
    assert header == signaling_header(kind)
    assert decode(open_signaling(data, header, COMMON_KEY), type(SIGNALING[kind])) == SIGNALING[kind]


@pytest.mark.parametrize("kind", DISTRIBUTION, ids=lambda kind: kind.name)
def test_the_distribution_vectors_open(kind: MessageType) -> None:
    header = SignalingHeader(kind, 0, NO_NODE, TRANSACTION)
    assert open_distribution(read_vector(kind.name.lower()), NMS, AS.public) == (header, DISTRIBUTION[kind])


def test_the_login_vectors_open() -> None:
    attempt = read_login_request(strip_macs(read_vector("login_request")), AS)
    assert msgspec.structs.replace(attempt.body, padding=b"") == LOGIN_REQUEST
    assert login()[0].read_response(read_vector("login_response")) == LOGIN_RESPONSE


def test_the_signed_and_sealed_vectors_open() -> None:
    assert read_certificate(read_vector("certificate"), AS_SIGNING.public) == CERTIFICATE
    assert open_token(read_vector("relay_token"), RELAY, NMS.public) == TOKEN
    assert decode(read_vector("batch"), Batch) == BATCH
    assert decode(read_vector("report"), Report) == REPORT


def test_the_cookie_vector_opens_to_the_cookie_of_another_vector() -> None:
    reply = read_vector("cookie_reply")
    assert open_cookie(reply, asked(), cookie_key(NMS.public)) == COOKIE
    mint = CookieMint(some("fleet", 32), NMS.public, fixed("cookie"))
    assert mint.proves(read_vector("keep_alive_with_cookie"), IPV4.encode(), TIME / 1000)


def test_the_capsule_vectors_open() -> None:
    for name, suite in (("capsule", Suite.AES_256_GCM), ("capsule_chacha20", Suite.CHACHA20_POLY1305)):
        assert tunnel(suite)[3].open(read_vector(name)) == (b"a packet", 0)


def test_a_registration_is_read_with_measurements_and_without() -> None:
    header = signaling_header(MessageType.REGISTRATION_REQUEST)
    for name, expected in (("", []), ("_measured", MEASURED_REGISTRATION.relays)):
        data = read_vector(f"registration_request{name}")
        assert decode(open_signaling(data, header, COMMON_KEY), MeasuredRegistration).relays == expected


def test_the_probe_vectors_are_read() -> None:
    assert RelayProbe.decode(read_vector("relay_probe")) == PROBE
    assert read_probe_reply(read_vector("relay_probe_reply"), mac1_key(RELAY.public)) == PROBE_REPLY


def plain(value: Any) -> Any:
    """What a MessagePack reader without our types sees."""
    if isinstance(value, Body):
        return [plain(getattr(value, field)) for field in value.__struct_fields__]
    return [plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_another_messagepack_reads_and_writes_the_same_body(body: Body) -> None:
    assert msgpack.unpackb(encode(body)) == plain(body)
    assert msgpack.packb(plain(body)) == encode(body)


def bodies_of(base: type[Body]) -> Iterator[type[Body]]:
    for body_type in base.__subclasses__():
        yield body_type
        yield from bodies_of(body_type)


def test_no_body_is_left_out() -> None:
    within = {RelayAddress, RelayGrant, RelayRoundTrip, Job, Route, Send}
    ours = {body_type for body_type in bodies_of(Body) if body_type.__module__.startswith("cyphonic.wire")}
    assert ours - within == {type(body) for body in BODIES}
