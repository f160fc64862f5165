"""Node certificates: signed by the AS, checked by the NMS and by every peer.

::

    encoded Certificate body | Ed25519 signature (64) over {context, encoded body}
"""

from __future__ import annotations

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.keys import SigningKeyPair, verify
from cyphonic.wire.certificate import MAX_CERTIFICATE, SIGNATURE_LENGTH, Certificate
from cyphonic.wire.codec import decode, encode

_CONTEXT = b"cyphonic node certificate v1"
"""Signed in front of the body, so that no signature of the AS means two things."""


def sign_certificate(certificate: Certificate, signing: SigningKeyPair) -> bytes:
    """The signed bytes.  Raise MalformedError("bad_certificate") when they would exceed MAX_CERTIFICATE."""
    body = encode(certificate)
    if len(body) + SIGNATURE_LENGTH > MAX_CERTIFICATE:
        raise MalformedError("bad_certificate")
    return body + signing.sign(_CONTEXT + body)


def read_certificate(data: bytes, as_verify_key: bytes) -> Certificate:
    """The certificate in ``data``, which the AS has signed; not yet whether it is still valid.

    Raise MalformedError("bad_certificate" or "bad_signature").
    """
    if not SIGNATURE_LENGTH < len(data) <= MAX_CERTIFICATE:
        raise MalformedError("bad_certificate")
    body, signature = data[:-SIGNATURE_LENGTH], data[-SIGNATURE_LENGTH:]
    verify(as_verify_key, _CONTEXT + body, signature)
    try:
        return decode(body, Certificate)
    except MalformedError:
        raise MalformedError("bad_certificate") from None


def check_certificate(certificate: Certificate, wall: float, min_generation: int = 0) -> None:
    """Raise NotAllowedError("certificate_expired" or "certificate_generation").  ``wall``: Unix seconds."""
    if wall >= certificate.expires:
        raise NotAllowedError("certificate_expired")
    if certificate.generation < min_generation:
        raise NotAllowedError("certificate_generation")
