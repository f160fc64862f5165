"""Every function that reads bytes or text from elsewhere and keeps nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import msgspec

from cyphonic.bundle import Bundle
from cyphonic.configuration import load
from cyphonic.errors import ConfigurationError, DropError
from cyphonic.node.config import NodeConfig
from cyphonic.node.control import Request
from cyphonic.node.portmap.mapper import PortMapper
from cyphonic.node.portmap.natpmp import AddressResponse, NatPmpSpeaker, PortRequest, PortResponse
from cyphonic.node.portmap.pcp import MapRequest, MapResponse, PcpSpeaker
from cyphonic.node.upstream import take_frame
from cyphonic.node.zone import Action, Zone, server_failure
from cyphonic.protocol import inner
from cyphonic.protocol.certificate import read_certificate
from cyphonic.protocol.cookie import cookie_key, open_cookie
from cyphonic.protocol.distribution import open_distribution
from cyphonic.protocol.handshake import read_tunnel_request
from cyphonic.protocol.keys import KeyPair, SigningKeyPair, decode_key
from cyphonic.protocol.login import read_login_request
from cyphonic.protocol.overlay import LookedUp
from cyphonic.protocol.probe import read_probe_reply
from cyphonic.protocol.route import usable_candidates
from cyphonic.protocol.token import open_token
from cyphonic.wire.codec import Body, decode
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import CapsuleHeader, SignalingHeader, decode_relayed
from cyphonic.wire.hint import CookieReply
from cyphonic.wire.probe import RelayProbe, RelayProbeReply
from cyphonic.wire.relay import RelayBind, RelayBindChallenge, RelayBound
from cyphonic.wire.tunnel import (
    HolePunch,
    TunnelRequest,
    TunnelResponse,
    decode_path_check,
    decode_path_check_ack,
)

Reader = Callable[[bytes], object]

_CHANCE = random.Random(20).randbytes
_KEY, _OTHER = KeyPair.generate(_CHANCE), KeyPair.generate(_CHANCE)
_SIGNING = SigningKeyPair.generate(_CHANCE)
_ZONE = Zone.of("main.cyphonic.internal", "fd12:3456:789a::/48", "10.77.0.0/16")
_FOUND = LookedUp("x", "alice.main.cyphonic.internal", bytes.fromhex("fd12") + bytes(14), bytes([10, 77, 0, 1]))
_VARIABLES = sorted(f"CYPHONIC_NODE_{field.name}".upper() for field in msgspec.structs.fields(NodeConfig))


ALLOWED: Mapping[str, tuple[type[Exception], ...]] = {
    "endpoint_text": (ValueError,),
    "key_text": (ValueError,),
    "bundle": (ConfigurationError,),
    "config": (ConfigurationError,),
    "control": (msgspec.MsgspecError, UnicodeDecodeError, RecursionError),
    "dns": (),
    "dns_stream": (),
    "inner_packet": (),
}
"""What may be raised; where nothing stands here, DropError."""


def readers() -> Mapping[str, Reader]:
    """By name, which is also that of its corpus."""
    fixed: dict[str, Reader] = {
        "signaling_header": SignalingHeader.decode,
        "capsule_header": CapsuleHeader.decode,
        "relayed_header": decode_relayed,
        "tunnel_request": TunnelRequest.decode,
        "tunnel_response": TunnelResponse.decode,
        "hole_punch": HolePunch.decode,
        "path_check": decode_path_check,
        "path_check_ack": decode_path_check_ack,
        "relay_bind": RelayBind.decode,
        "relay_bind_challenge": RelayBindChallenge.decode,
        "relay_bound": RelayBound.decode,
        "relay_probe": RelayProbe.decode,
        "relay_probe_reply": RelayProbeReply.decode,
        "cookie_reply": CookieReply.decode,
        "endpoint": Endpoint.decode,
        "endpoint_fixed": Endpoint.decode_fixed,
        "endpoint_text": lambda data: Endpoint.parse(data.decode("utf-8")),
        "key_text": lambda data: decode_key(data.decode("utf-8")),
        "inner_packet": lambda data: data and (inner.source(data), inner.destination(data)),
        "candidates": lambda data: usable_candidates([data[:6], data[6:24], data[24:]], allow_loopback=False),
        "certificate": lambda data: read_certificate(data, _SIGNING.public),
        "token": lambda data: open_token(data, _KEY, _OTHER.public),
        "box": lambda data: open_distribution(data, _KEY, _OTHER.public),
        "login": lambda data: read_login_request(data, _KEY),
        "handshake": lambda data: read_tunnel_request(data, _KEY, bytes(32)),
        "sealed_cookie": lambda data: open_cookie(data, bytes(200), cookie_key(_KEY.public)),
        "probe_answer": lambda data: read_probe_reply(data, bytes(32)),
        "bundle": lambda data: Bundle.parse(data, "here"),
        "config": _config,
        "control": lambda data: msgspec.json.decode(data, type=Request),
        "dns": _dns,
        "dns_stream": lambda data: take_frame(bytearray(data)),
        "pcp_request": MapRequest.decode,
        "pcp_response": MapResponse.decode,
        "pcp": lambda data: PcpSpeaker("10.0.0.2", 40000, lambda length: b"n" * length).read(data),
        "nat_pmp_address": AddressResponse.decode,
        "nat_pmp_request": PortRequest.decode,
        "nat_pmp_response": PortResponse.decode,
        "nat_pmp": _nat_pmp,
        "port_mapper": _port_mapper,
    }
    return fixed | {f"body_{kind.__name__}": _body(kind) for kind in sorted(_bodies(Body), key=_name)}


def _name(kind: type) -> str:
    return kind.__name__


def _bodies(base: type[Body]) -> Iterator[type[Body]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _bodies(kind)


def _body(kind: type[Body]) -> Reader:
    return lambda data: decode(data, kind)


def _config(data: bytes) -> object:
    name = _VARIABLES[data[0] % len(_VARIABLES)] if data else _VARIABLES[0]
    environ = {name: data[1:].decode("utf-8", "surrogateescape")}
    return load(NodeConfig, section="node", file=None, environ=environ)


def _dns(data: bytes) -> object:
    verdict = _ZONE.examine(data)
    if verdict.action is Action.ASK and verdict.query is not None:
        return _ZONE.answer(verdict.query, _FOUND)
    if verdict.action is Action.ANSWER and verdict.query is not None:
        return _ZONE.answer_at_once(verdict.query, verdict.code)
    return server_failure(data) if verdict.action is Action.FORWARD else None


def _port_mapper(data: bytes) -> object:
    """The machine, fed with parts of the input; it waits between them."""
    mapper, now = PortMapper(lambda length: b"n" * length), 0.0
    mapper.begin("10.0.0.2", 40000, now)
    for start in range(0, max(1, len(data)), 60):
        with suppress(DropError):
            mapper.receive(data[start : start + 60], now)
        now = max(now, min(mapper.next_deadline(), now + 1))
        mapper.handle_timeout(now)
        assert mapper.next_deadline() > now, "a machine that is always due spins its node"
        assert len(mapper.datagrams_to_send()) < 10
    return mapper.state.name


def _nat_pmp(data: bytes) -> object:
    speaker = NatPmpSpeaker(40000)
    speaker.requests(3600)
    return speaker.read(data), speaker.read(data)
