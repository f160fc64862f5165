from __future__ import annotations

import os

import pytest

from cyphonic.errors import MalformedError
from cyphonic.protocol.keys import (
    KeyPair,
    SigningKeyPair,
    decode_key,
    encode_key,
    exchange,
    open_box,
    seal_box,
    verify,
)

ALICE = KeyPair.from_secret(bytes(range(32)))


def test_exchange_follows_rfc_7748() -> None:
    bob = KeyPair.generate(os.urandom)
    assert exchange(ALICE.secret, bob.public) == exchange(bob.secret, ALICE.public)
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert exchange(scalar, point) == product


def test_no_secret_shows_in_a_representation() -> None:
    pair, signing = KeyPair.generate(os.urandom), SigningKeyPair.generate(os.urandom)
    for text in (repr(pair), repr(signing)):
        assert "secret" not in text
        assert repr(pair.secret) not in text
        assert repr(signing.seed) not in text


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_point_of_low_order_is_refused(point: bytes) -> None:
    with pytest.raises(MalformedError, match="bad_key"):
        exchange(ALICE.secret, point)
    with pytest.raises(MalformedError, match="bad_key"):
        seal_box(ALICE.secret, point, bytes(24), b"")


def test_a_signature_is_good_for_its_message_and_key_only() -> None:
    signing = SigningKeyPair.from_seed(bytes(32))
    signature = signing.sign(b"message")
    verify(signing.public, b"message", signature)
    for public, message, bad in (
        (signing.public, b"Message", signature),
        (SigningKeyPair.from_seed(b"\x01" * 32).public, b"message", signature),
        (signing.public, b"message", signature[:-1]),
        (signing.public, b"message", signature[:-1] + bytes([signature[-1] ^ 1])),
        (signing.public, b"", b""),
        (bytes(32), b"message", signature),
    ):
        with pytest.raises(MalformedError, match="bad_signature"):
            verify(public, message, bad)


def test_a_box_opens_for_its_recipient_only() -> None:
    sender, recipient, stranger = (KeyPair.generate(os.urandom) for _ in range(3))
    box = seal_box(sender.secret, recipient.public, bytes(24), b"plaintext")
    assert len(box) == len(b"plaintext") + 16
    assert open_box(recipient.secret, sender.public, bytes(24), box) == b"plaintext"
    for secret, public, nonce, bad in (
        (stranger.secret, sender.public, bytes(24), box),
        (recipient.secret, stranger.public, bytes(24), box),
        (recipient.secret, sender.public, b"\x01" * 24, box),
        (recipient.secret, sender.public, bytes(23), box),
        (recipient.secret, sender.public, bytes(24), box[:-1]),
        (recipient.secret, sender.public, bytes(24), b""),
    ):
        with pytest.raises(MalformedError, match="bad_box"):
            open_box(secret, public, nonce, bad)


def test_a_key_survives_its_text() -> None:
    key = bytes(range(32))
    assert len(encode_key(key)) == 44
    assert decode_key(encode_key(key) + "\n") == key


@pytest.mark.parametrize("text", ["", "not base64!", "AAAA", encode_key(bytes(32))[:-4], "ä" * 44])
def test_a_key_that_is_none_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="a key is") as refusal:
        decode_key(text)
    assert not text or text not in str(refusal.value)
