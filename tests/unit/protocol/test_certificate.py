from __future__ import annotations

import msgspec
import pytest

from cyphonic.errors import MalformedError, NotAllowedError
from cyphonic.protocol.certificate import check_certificate, read_certificate, sign_certificate
from cyphonic.protocol.keys import SigningKeyPair
from cyphonic.wire.certificate import MAX_CERTIFICATE, Certificate
from cyphonic.wire.codec import encode

AS = SigningKeyPair.from_seed(b"a" * 32)
CERTIFICATE = Certificate(
    "printer.home.example", b"n" * 16, b"s" * 32, b"6" * 16, b"4" * 4, ["office"], 1_900_000_000, 3
)


def test_a_signed_certificate_is_read_back() -> None:
    assert read_certificate(sign_certificate(CERTIFICATE, AS), AS.public) == CERTIFICATE


def test_no_flipped_bit_passes() -> None:
    data = sign_certificate(CERTIFICATE, AS)
    for position in range(8 * len(data)):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError):
            read_certificate(bytes(changed), AS.public)


def test_a_truncated_or_prolonged_certificate_is_refused() -> None:
    data = sign_certificate(CERTIFICATE, AS)
    for length in range(len(data)):
        with pytest.raises(MalformedError):
            read_certificate(data[:length], AS.public)
    for longer in (data + b"\0", bytes(MAX_CERTIFICATE + 1)):
        with pytest.raises(MalformedError):
            read_certificate(longer, AS.public)


def test_another_signer_is_refused() -> None:
    with pytest.raises(MalformedError, match="bad_signature"):
        read_certificate(sign_certificate(CERTIFICATE, SigningKeyPair.from_seed(bytes(32))), AS.public)


def test_a_signature_over_the_same_bytes_without_the_context_is_no_certificate() -> None:
    body = encode(CERTIFICATE)
    with pytest.raises(MalformedError, match="bad_signature"):
        read_certificate(body + AS.sign(body), AS.public)


def test_signed_nonsense_is_no_certificate() -> None:
    body = b"\x93\x01\x02\x03"
    with pytest.raises(MalformedError, match="bad_certificate"):
        read_certificate(body + AS.sign(b"cyphonic node certificate v1" + body), AS.public)


def test_the_longest_name_fits_and_what_would_not_fit_a_route_direction_is_not_signed() -> None:
    longest = msgspec.structs.replace(CERTIFICATE, fqdn="x" * 128, networks=["y" * 10] * 8)
    assert len(sign_certificate(longest, AS)) <= MAX_CERTIFICATE
    with pytest.raises(MalformedError, match="bad_certificate"):
        sign_certificate(msgspec.structs.replace(longest, networks=["y" * 60] * 8), AS)


def test_a_certificate_ends_with_its_second_and_its_generation() -> None:
    check_certificate(CERTIFICATE, wall=1_899_999_999.9, min_generation=3)
    with pytest.raises(NotAllowedError, match="certificate_expired"):
        check_certificate(CERTIFICATE, wall=1_900_000_000.0)
    with pytest.raises(NotAllowedError, match="certificate_generation"):
        check_certificate(CERTIFICATE, wall=0.0, min_generation=4)
