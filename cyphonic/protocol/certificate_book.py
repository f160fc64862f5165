"""The certificates a node has seen: which are authentic, and how old a generation it still believes.

``check`` raises and changes nothing; ``note`` is for a certificate that is about to be used.
"""

from __future__ import annotations

from typing import TypeVar

from cyphonic.protocol.certificate import check_certificate, read_certificate
from cyphonic.wire.certificate import Certificate

VERIFIED_LIMIT = 4096
"""Signed certificates whose signature need not be checked again (60 µs each)."""
GENERATIONS_LIMIT = 65536
"""Nodes whose lowest acceptable generation is remembered."""

ValueT = TypeVar("ValueT")


class CertificateBook:
    """Verifies peers' certificates.  Clients of one process may share ``verified``, which holds no node's view."""

    def __init__(self, as_verify_key: bytes, verified: dict[bytes, Certificate] | None = None) -> None:
        self._as_verify_key = as_verify_key
        self._verified: dict[bytes, Certificate] = {} if verified is None else verified
        self._lowest: dict[bytes, int] = {}
        self._revoked: dict[bytes, int] = {}

    def check(self, data: bytes, wall: float) -> Certificate:
        """The certificate in ``data``.  ``wall``: Unix seconds.

        Raise MalformedError("bad_certificate" or "bad_signature"), NotAllowedError("certificate_expired" or
        "certificate_generation": lower than seen, or revoked).
        """
        certificate = self._verified.get(data)
        if certificate is None:
            certificate = read_certificate(data, self._as_verify_key)
            _put(self._verified, data, certificate, VERIFIED_LIMIT)
        check_certificate(certificate, wall, self._lowest.get(certificate.node_id, 0))
        return certificate

    def note(self, certificate: Certificate) -> None:
        """From now on refuse lower generations of this node."""
        self._raise(certificate.node_id, certificate.generation)

    def revoke(self, node_id: bytes, generation: int) -> bool:
        """Refuse this generation and below; True when that was not known."""
        if self._revoked.get(node_id, -1) >= generation:
            return False
        _put(self._revoked, node_id, generation, GENERATIONS_LIMIT)
        self._raise(node_id, generation + 1)
        return True

    def _raise(self, node_id: bytes, generation: int) -> None:
        if self._lowest.get(node_id, -1) < generation:
            _put(self._lowest, node_id, generation, GENERATIONS_LIMIT)


def _put(table: dict[bytes, ValueT], key: bytes, value: ValueT, limit: int) -> None:
    """Store, forgetting the oldest entry when there are too many."""
    table.pop(key, None)
    if len(table) >= limit:
        del table[next(iter(table))]
    table[key] = value
