"""One simulated node: keys, and the datagrams of its conversations.  No tunnel, no device; pure.

It speaks for itself instead of through ``protocol.client``, because the generator must cost less than the cloud
that it loads: what can be kept between two datagrams (cipher, MAC1 key, header prefix) is kept.
"""

from __future__ import annotations

import struct
from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cyphonic.errors import MalformedError
from cyphonic.protocol.certificate import read_certificate
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.cookie import add_mac2, cookie_key, open_cookie
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.login import LoginInitiator
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.wire.codec import Body, encode
from cyphonic.wire.direction import DirectionRequest, RouteDirectionConfirmation
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import NONCE_LENGTH, SIGNALING_HEADER_LENGTH, VERSION, MessageType
from cyphonic.wire.job import Service
from cyphonic.wire.login import LoginOutcome, LoginRequest, LoginResponse
from cyphonic.wire.registration import KeepAlive, RegistrationRequest
from cyphonic.wire.tunnel import Suite

SOFTWARE = "cyphonic loadgen"
_SUITES = [int(Suite.CHACHA20_POLY1305)]
_PREFIX = struct.Struct(">BBHI16s")
_SEALED = SIGNALING_HEADER_LENGTH + NONCE_LENGTH


class SimulatedNode:
    """A member as the cloud sees one."""

    def __init__(self, name: str, secret: bytes, as_key: bytes, as_verify_key: bytes, chance: Chance) -> None:
        self.name = name
        self.fqdn = ""
        self.node_id = b""
        self.counter = 0
        self.registered = False
        self.keep_alive_at = 0.0
        self.key_number = 0
        self._static = KeyPair.from_secret(secret)
        self._as_key = as_key
        self._as_verify_key = as_verify_key
        self._chance = chance
        self._login: LoginInitiator | None = None
        self._certificate = b""
        self._ciphers: dict[int, ChaCha20Poly1305] = {}
        self._mac1_key = b""
        self._cookie_keys = {Service.AS: cookie_key(as_key), Service.NMS: b""}

    def with_cookie(self, request: bytes, reply: bytes) -> bytes:
        """The request with MAC2 under the cookie of a CookieReply to it.  Raise MalformedError."""
        service = Service.AS if request[0] == MessageType.LOGIN_REQUEST else Service.NMS
        return add_mac2(request, open_cookie(reply, request, self._cookie_keys[service]))

    def login_request(self, transaction_id: bytes, stamp: int, enrolment_key: bytes) -> bytes:
        """A LoginRequest.  ``stamp`` in nanoseconds, greater than any before."""
        self._login = LoginInitiator(self._static, self._as_key, self._chance)
        body = LoginRequest(stamp, self.name, enrolment_key, _SUITES, SOFTWARE)
        return self._login.request(transaction_id, body)

    def read_login_response(self, datagram: bytes) -> LoginResponse:
        """The answer; when accepted, the node goes on under its new common key.  Raise DropError."""
        if self._login is None:
            raise MalformedError("unexpected_response")
        response = self._login.read_response(datagram)
        if response.outcome == LoginOutcome.ACCEPTED:
            certificate = read_certificate(response.certificate, self._as_verify_key)
            self._login = None
            self.fqdn = certificate.fqdn
            self.node_id = certificate.node_id
            previous = self._ciphers.get(self.key_number)
            self._ciphers = {response.key_number: ChaCha20Poly1305(response.common_key)}
            if previous is not None:  # answers that are under way
                self._ciphers.setdefault(self.key_number, previous)
            self.key_number = response.key_number
            self.counter = 0
            self.registered = False
            self._certificate = response.certificate
            self._mac1_key = mac1_key(response.nms_key)
            self._cookie_keys[Service.NMS] = cookie_key(response.nms_key)
        return response

    def registration_request(self, transaction_id: bytes, candidates: list[Endpoint]) -> bytes:
        """A RegistrationRequest."""
        self.counter += 1
        encoded = [candidate.encode() for candidate in candidates]
        body = RegistrationRequest(self.counter, encoded, self._certificate)
        return self._seal(MessageType.REGISTRATION_REQUEST, transaction_id, body)

    def keep_alive(self, transaction_id: bytes) -> bytes:
        """A KeepAlive."""
        self.counter += 1
        return self._seal(MessageType.KEEP_ALIVE, transaction_id, KeepAlive(self.counter))

    def direction_request(self, transaction_id: bytes, fqdn: str, time_ms: int) -> bytes:
        """A DirectionRequest for a peer's name, dated in the cloud's unix milliseconds."""
        return self._seal(MessageType.DIRECTION_REQUEST, transaction_id, DirectionRequest(time_ms, fqdn, b""))

    def confirmation(self, handle: bytes) -> bytes:
        """A RouteDirectionConfirmation."""
        body = RouteDirectionConfirmation(handle)
        return self._seal(MessageType.ROUTE_DIRECTION_CONFIRMATION, handle, body)

    def open(self, datagram: bytes) -> bytes:
        """The encoded body of what the NMS sealed for this node.  Raise MalformedError("bad_seal")."""
        cipher = self._ciphers.get(int.from_bytes(datagram[4:8], "big"))
        if cipher is None:
            raise MalformedError("bad_seal")
        try:
            return cipher.decrypt(
                datagram[SIGNALING_HEADER_LENGTH:_SEALED],
                datagram[_SEALED:],
                datagram[:SIGNALING_HEADER_LENGTH],
            )
        except InvalidTag:
            raise MalformedError("bad_seal") from None

    def _seal(self, message_type: MessageType, transaction_id: bytes, body: Body) -> bytes:
        header = _PREFIX.pack(message_type, VERSION, 0, self.key_number, self.node_id) + transaction_id
        nonce = self._chance(NONCE_LENGTH)
        sealed = header + nonce + self._ciphers[self.key_number].encrypt(nonce, encode(body), header)
        return append_macs(sealed, self._mac1_key)


def make_secret(enrolment_key: bytes, name: str) -> bytes:
    """The static secret of a simulated node: the same in every run, so that runs do not fill the registry."""
    return blake2s(name.encode(), key=enrolment_key, person=b"loadgen").digest()
