"""What may pass from an endpoint to the gate: the right type, version, length and MAC1.  Nothing else is looked
at."""

from __future__ import annotations

from hashlib import blake2s
from hmac import compare_digest

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.mac import mac1_key
from cyphonic.wire.header import (
    AS_REQUESTS,
    INTERNAL,
    MAC_LENGTH,
    MACS_LENGTH,
    MAX_CONTROL_DATAGRAM,
    MIN_SEALED_LENGTH,
    NMS_REQUESTS,
    VERSION,
    MessageType,
)
from cyphonic.wire.job import Service
from cyphonic.wire.login import LOGIN_REQUEST_LENGTH

MIN_LENGTH = MIN_SEALED_LENGTH + MACS_LENGTH
REQUESTS = {Service.AS: AS_REQUESTS, Service.NMS: NMS_REQUESTS}
_KNOWN = frozenset(int(message_type) for message_type in MessageType)


class OtherVersionError(MalformedError):
    """A request of the right length and type, but of another version of the protocol."""


class Admission:
    """For the endpoints of one service, whose X25519 public key keys MAC1."""

    def __init__(self, service: Service, public_key: bytes) -> None:
        self._allowed = frozenset(int(message_type) for message_type in REQUESTS[service])
        self._key = mac1_key(public_key)

    def admit(self, datagram: bytes) -> bytes:
        """The datagram without its MACs.  Raise MalformedError or NotAllowedError.

        The cheapest test comes first; MAC1 is computed inline, because this runs for every datagram.
        """
        length = len(datagram)
        if not MIN_LENGTH <= length <= MAX_CONTROL_DATAGRAM:
            raise MalformedError("bad_length")
        kind = datagram[0]
        if kind not in self._allowed:
            raise _wrong_type(kind)
        if datagram[1] != VERSION:
            raise OtherVersionError("unknown_version")
        if kind == MessageType.LOGIN_REQUEST and length != LOGIN_REQUEST_LENGTH:
            raise MalformedError("bad_length")
        body = datagram[:-MACS_LENGTH]
        expected = blake2s(body, key=self._key, digest_size=MAC_LENGTH).digest()
        if not compare_digest(expected, datagram[-MACS_LENGTH:-MAC_LENGTH]):
            raise MalformedError("bad_mac1")
        return body


def _wrong_type(kind: int) -> MalformedError | NotAllowedError:
    if kind not in _KNOWN:
        return MalformedError("unknown_type")
    return NotAllowedError("internal_type" if kind in INTERNAL else "wrong_service")
