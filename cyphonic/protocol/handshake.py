"""The tunnel handshake, Noise IKpsk2 between two nodes: ``wire/tunnel.py`` draws the messages.

The path key does two things.  A key derived from it MACs both messages whole, which is checked first and costs a
microsecond, so only who was directed to this node can make it compute a key exchange.  And it is the PSK: without
the NMS's consent there is no session, while the NMS, which knows it, still cannot compute the end keys.

Suites are offered inside message 1 and chosen inside message 2: both are authenticated, nobody between can
downgrade.  Error contract: every ``read_*`` raises MalformedError or NotAllowedError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.mac import append_path_mac, check_path_mac, path_mac_key
from cyphonic.protocol.noise import IKPSK2, HandshakeState
from cyphonic.protocol.session import Session
from cyphonic.wire.codec import decode, encode
from cyphonic.wire.header import MessageType
from cyphonic.wire.tunnel import (
    REQUEST_HEADER_LENGTH,
    Suite,
    TunnelRequest,
    TunnelRequestPayload,
    TunnelResponse,
    TunnelResponsePayload,
)

_PROLOGUE = b"cyphonic tunnel v1"


class TunnelInitiator:
    """The initiator's end of one tunnel handshake."""

    def __init__(
        self,
        static: KeyPair,
        peer_static: bytes,
        path_id: bytes,
        path_key: bytes,
        local_index: int,
        chance: Chance,
    ) -> None:
        """``local_index``: 32 bits under which this node will know the session."""
        self.local_index = local_index
        self.path_id = path_id
        self._chance = chance
        self._mac_key = path_mac_key(path_key)
        self._offered: tuple[Suite, ...] = ()
        self._header = TunnelRequest(local_index, path_id, b"").encode()
        self._handshake = HandshakeState(
            IKPSK2,
            initiator=True,
            prologue=_PROLOGUE + self._header,
            static=static,
            remote_static=peer_static,
            psk=path_key,
        )

    def request(self, stamp: int, suites: Sequence[Suite]) -> bytes:
        """A TunnelRequest, which may be resent as it is.

        ``stamp``: greater than any before from this static key.  ``suites``: in order of preference.
        Raise RuntimeError on a second call: a second request is a second handshake.
        """
        payload = TunnelRequestPayload(stamp, list(suites))
        noise = self._handshake.write_message(encode(payload), KeyPair.generate(self._chance))
        self._offered = tuple(suites)
        return append_path_mac(self._header + noise, self._mac_key)

    def read_response(self, datagram: bytes) -> Session:
        """The session.

        Raise MalformedError("bad_path_mac", "bad_index", "bad_handshake", "bad_suite", …); the true answer may
        still come.
        """
        _check_type(datagram, MessageType.TUNNEL_RESPONSE)
        check_path_mac(datagram, self._mac_key)
        response = TunnelResponse.decode(datagram)
        if response.receiver_index != self.local_index:
            raise MalformedError("bad_index")
        handshake = self._handshake.copy()
        payload = decode(handshake.read_message(response.noise), TunnelResponsePayload)
        if payload.suite not in self._offered:
            raise MalformedError("bad_suite")
        if payload.sender_index != response.sender_index:
            raise MalformedError("bad_index")
        to_responder, to_initiator = handshake.split()
        return Session(
            Suite(payload.suite),
            to_responder,
            to_initiator,
            local_index=self.local_index,
            peer_index=response.sender_index,
            initiator=True,
        )


@dataclass(frozen=True, slots=True)
class TunnelAttempt:
    """A TunnelRequest as the responder reads it.

    It is authentic for ``remote_static``.  Whether that is the key in the peer's certificate, and whether the
    payload's stamp is greater than any before, is for the caller to check before it answers.
    """

    remote_static: bytes
    payload: TunnelRequestPayload
    sender_index: int
    path_id: bytes
    handshake: HandshakeState


def read_tunnel_request(datagram: bytes, static: KeyPair, path_key: bytes) -> TunnelAttempt:
    """Read a TunnelRequest.  Raise MalformedError("bad_path_mac", "bad_handshake", "bad_body", …)."""
    _check_type(datagram, MessageType.TUNNEL_REQUEST)
    check_path_mac(datagram, path_mac_key(path_key))
    request = TunnelRequest.decode(datagram)
    prologue = _PROLOGUE + datagram[:REQUEST_HEADER_LENGTH]
    handshake = HandshakeState(IKPSK2, initiator=False, prologue=prologue, static=static, psk=path_key)
    payload = decode(handshake.read_message(request.noise), TunnelRequestPayload)
    assert handshake.remote_static is not None
    return TunnelAttempt(handshake.remote_static, payload, request.sender_index, request.path_id, handshake)


def write_tunnel_response(
    attempt: TunnelAttempt, path_key: bytes, local_index: int, suite: Suite, chance: Chance
) -> tuple[bytes, Session]:
    """A TunnelResponse, which may be resent as it is, and the session that it opens."""
    handshake = attempt.handshake.copy()
    payload = TunnelResponsePayload(suite, local_index)
    noise = handshake.write_message(encode(payload), KeyPair.generate(chance))
    response = TunnelResponse(local_index, attempt.sender_index, noise).encode()
    to_responder, to_initiator = handshake.split()
    session = Session(
        suite,
        to_initiator,
        to_responder,
        local_index=local_index,
        peer_index=attempt.sender_index,
        initiator=False,
    )
    return append_path_mac(response, path_mac_key(path_key)), session


def choose_suite(offered: Sequence[int], supported: Sequence[Suite]) -> Suite:
    """The common suite that is least bad for whom it is worse; ChaCha20-Poly1305 where that is a draw.

    So AES is chosen where both ends prefer it, because both have instructions for it, and ChaCha otherwise.
    Raise NotAllowedError("no_common_suite").
    """
    common = [suite for suite in supported if suite in offered]
    if not common:
        raise NotAllowedError("no_common_suite")
    return min(common, key=lambda suite: (max(offered.index(suite), supported.index(suite)), suite))


def _check_type(datagram: bytes, expected: MessageType) -> None:
    if not datagram or datagram[0] != expected:
        raise MalformedError("bad_type")
