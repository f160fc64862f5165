"""The handshakes against published vectors, against an independent implementation, and against forgers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from noise.connection import Keypair, NoiseConnection  # type: ignore[import-untyped]

from cyphonic.errors import MalformedError
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.noise import IK, IKPSK2, HandshakeState, Pattern

ROOT = Path(__file__).parents[3]
VECTORS = Path(os.environ.get("CYPHONIC_VECTORS", ROOT.parent / "shared" / "vectors"))

# No vectors are published for IKpsk2 alone; those with a second PSK in front exercise the same steps.
IKPSK0PSK2 = Pattern("IKpsk0+psk2", (("psk", "e", "es", "s", "ss"), ("e", "ee", "se", "psk")))
PATTERNS = {pattern.protocol_name.decode(): pattern for pattern in (IK, IKPSK2, IKPSK0PSK2)}

PROLOGUE = b"a prologue"
PSK = bytes(range(32))


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, Any]]:
    path = VECTORS / "noise" / "snow_25519_blake2s.json"
    if not path.exists():
        pytest.skip(f"no published Noise vectors at {path}: set CYPHONIC_VECTORS to their folder")
    return {vector["protocol_name"]: vector for vector in json.loads(path.read_text())["vectors"]}


def pair(name: str) -> KeyPair:
    return KeyPair.from_secret(name.encode().ljust(32, b"."))


def both_ends(pattern: Pattern, **changes: Any) -> tuple[HandshakeState, HandshakeState]:
    """An initiator and a responder; ``changes`` go to the responder."""
    psk = PSK if pattern.has_psk else None
    initiator = HandshakeState(
        pattern,
        initiator=True,
        prologue=PROLOGUE,
        static=pair("initiator"),
        remote_static=pair("responder").public,
        psk=psk,
    )
    responder: dict[str, Any] = {"prologue": PROLOGUE, "static": pair("responder"), "psk": psk, **changes}
    return initiator, HandshakeState(pattern, initiator=False, **responder)


def flipped(message: bytes) -> Iterator[bytes]:
    for position in range(len(message) * 8):
        changed = bytearray(message)
        changed[position // 8] ^= 1 << position % 8
        yield bytes(changed)


@pytest.mark.parametrize("pattern", [IK, IKPSK0PSK2], ids=lambda pattern: pattern.name)
def test_published_vectors_are_reproduced_to_the_byte(
    pattern: Pattern, published: dict[str, dict[str, Any]]
) -> None:
    vector = published[pattern.protocol_name.decode()]
    value = {key: bytes.fromhex(text) for key, text in vector.items() if isinstance(text, str) and key[4] == "_"}
    psks: list[bytes | None] = [bytes.fromhex(psk) for psk in vector["init_psks"]] or [None, None]
    messages = [
        tuple(bytes.fromhex(message[key]) for key in ("payload", "ciphertext")) for message in vector["messages"]
    ]
    initiator = HandshakeState(
        pattern,
        initiator=True,
        prologue=value["init_prologue"],
        static=KeyPair.from_secret(value["init_static"]),
        remote_static=value["init_remote_static"],
    )
    responder = HandshakeState(
        pattern,
        initiator=False,
        prologue=value["resp_prologue"],
        static=KeyPair.from_secret(value["resp_static"]),
    )
    turns = ((initiator, responder, "init_ephemeral"), (responder, initiator, "resp_ephemeral"))
    for (writer, reader, ephemeral), psk, (payload, ciphertext) in zip(turns, psks, messages[:2], strict=True):
        if psk is not None:
            writer.set_psk(psk)
            reader.set_psk(psk)
        assert writer.write_message(payload, KeyPair.from_secret(value[ephemeral])) == ciphertext
        assert reader.read_message(ciphertext) == payload
    assert initiator.split() == responder.split()
    for key, (payload, ciphertext) in zip(initiator.split(), messages[2:], strict=True):
        assert ChaCha20Poly1305(key).encrypt(bytes(12), payload, b"") == ciphertext


def other_implementation(pattern: Pattern, *, initiator: bool) -> NoiseConnection:
    other = NoiseConnection.from_name(pattern.protocol_name)
    other.set_prologue(PROLOGUE)
    if pattern.has_psk:
        other.set_psks(psks=[PSK] * sum(tokens.count("psk") for tokens in pattern.messages))
    if initiator:
        other.set_as_initiator()
        other.set_keypair_from_private_bytes(Keypair.STATIC, pair("initiator").secret)
        other.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, pair("responder").public)
    else:
        other.set_as_responder()
        other.set_keypair_from_private_bytes(Keypair.STATIC, pair("responder").secret)
    other.start_handshake()
    return other


@pytest.mark.parametrize("pattern", [IK, IKPSK2], ids=lambda pattern: pattern.name)
def test_an_initiator_of_ours_agrees_with_a_responder_of_another_implementation(pattern: Pattern) -> None:
    ours, _ = both_ends(pattern)
    other = other_implementation(pattern, initiator=False)
    assert other.read_message(ours.write_message(b"one", pair("ephemeral"))) == b"one"
    assert ours.read_message(bytes(other.write_message(b"two"))) == b"two"
    to_responder, to_initiator = ours.split()
    assert other.get_handshake_hash() == ours.handshake_hash
    assert other.decrypt(ChaCha20Poly1305(to_responder).encrypt(bytes(12), b"three", None)) == b"three"
    assert ChaCha20Poly1305(to_initiator).decrypt(bytes(12), other.encrypt(b"four"), None) == b"four"


@pytest.mark.parametrize("pattern", [IK, IKPSK2], ids=lambda pattern: pattern.name)
def test_a_responder_of_ours_agrees_with_an_initiator_of_another_implementation(pattern: Pattern) -> None:
    _, ours = both_ends(pattern)
    other = other_implementation(pattern, initiator=True)
    assert ours.read_message(bytes(other.write_message(b"one"))) == b"one"
    assert ours.remote_static == pair("initiator").public
    assert other.read_message(ours.write_message(b"two", pair("ephemeral"))) == b"two"
    to_responder, to_initiator = ours.split()
    assert other.get_handshake_hash() == ours.handshake_hash
    assert ChaCha20Poly1305(to_responder).decrypt(bytes(12), other.encrypt(b"three"), None) == b"three"
    assert other.decrypt(ChaCha20Poly1305(to_initiator).encrypt(bytes(12), b"four", None)) == b"four"


@pytest.mark.parametrize("pattern", [IK, IKPSK2], ids=lambda pattern: pattern.name)
def test_no_flipped_bit_passes_and_none_spoils_the_handshake(pattern: Pattern) -> None:
    initiator, responder = both_ends(pattern)
    first = initiator.write_message(b"one", pair("first"))
    for forged in flipped(first):
        with pytest.raises(MalformedError, match="bad_handshake"):
            responder.read_message(forged)
        assert responder.remote_static is None
    assert responder.read_message(first) == b"one"
    second = responder.write_message(b"two", pair("second"))
    for forged in flipped(second):
        with pytest.raises(MalformedError, match="bad_handshake"):
            initiator.read_message(forged)
    assert initiator.read_message(second) == b"two"
    assert initiator.split() == responder.split()


@pytest.mark.parametrize("pattern", [IK, IKPSK2], ids=lambda pattern: pattern.name)
def test_a_truncated_message_is_refused_at_every_length(pattern: Pattern) -> None:
    initiator, responder = both_ends(pattern)
    first = initiator.write_message(b"", pair("first"))
    for length in range(len(first)):
        with pytest.raises(MalformedError, match="bad_handshake"):
            responder.read_message(first[:length])
    responder.read_message(first)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_an_ephemeral_key_of_low_order_is_refused(point: bytes) -> None:
    initiator, responder = both_ends(IK)
    first = initiator.write_message(b"", pair("first"))
    with pytest.raises(MalformedError, match="bad_handshake"):
        responder.read_message(point + first[32:])


def test_another_prologue_is_another_handshake() -> None:
    initiator, responder = both_ends(IK, prologue=b"another")
    with pytest.raises(MalformedError):
        responder.read_message(initiator.write_message(b"", pair("first")))


def test_another_responder_cannot_read_the_first_message() -> None:
    initiator, responder = both_ends(IK, static=pair("somebody else"))
    with pytest.raises(MalformedError):
        responder.read_message(initiator.write_message(b"", pair("first")))


def test_without_the_same_psk_the_second_message_is_refused() -> None:
    initiator, responder = both_ends(IKPSK2, psk=bytes(32))
    responder.read_message(initiator.write_message(b"one", pair("first")))
    second = responder.copy().write_message(b"two", pair("second"))
    with pytest.raises(MalformedError):
        initiator.read_message(second)
    responder.set_psk(PSK)
    assert initiator.read_message(responder.write_message(b"two", pair("third"))) == b"two"


def test_a_copy_goes_on_independently() -> None:
    initiator, responder = both_ends(IK)
    responder.read_message(initiator.write_message(b"one", pair("first")))
    answers = [responder.copy().write_message(b"two", pair(name)) for name in ("second", "third")]
    assert answers[0] != answers[1]
    for answer in answers:
        assert initiator.copy().read_message(answer) == b"two"


def test_calls_out_of_turn_are_mistakes_of_the_caller() -> None:
    initiator, responder = both_ends(IK)
    with pytest.raises(RuntimeError, match="message 1"):
        responder.write_message(b"", pair("first"))
    with pytest.raises(RuntimeError, match="message 1"):
        initiator.read_message(b"")
    with pytest.raises(RuntimeError, match="split"):
        initiator.split()
    initiator.write_message(b"", pair("first"))
    with pytest.raises(RuntimeError, match="message 2"):
        initiator.write_message(b"", pair("first"))


def test_a_missing_key_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="missing"):
        HandshakeState(IK, initiator=True, prologue=b"", static=pair("initiator"))
