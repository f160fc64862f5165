"""Project Wycheproof's hard cases, through our own functions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from nacl import bindings
from nacl.exceptions import CryptoError

from cyphonic.errors import MalformedError
from cyphonic.protocol import cookie
from cyphonic.protocol.keys import exchange, verify
from cyphonic.protocol.session import Session
from cyphonic.protocol.signaling import open_signaling
from cyphonic.wire.hint import CookieReply
from cyphonic.wire.tunnel import Suite

ROOT = Path(__file__).parents[3]
VECTORS = Path(os.environ.get("CYPHONIC_VECTORS", ROOT.parent / "shared" / "vectors"))


class Associated:
    """Stands in a header's place: what is authenticated with a body is what its ``encode`` returns."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def encode(self) -> bytes:
        return self.data


def aead(name: str, key_bits: int, nonce_bits: int) -> Iterator[tuple[dict[str, Any], bytes, bytes, bytes, bytes]]:
    """Case, key, nonce, associated data, and ciphertext with tag, of the sizes that we use."""
    for group in groups(name):
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (key_bits, nonce_bits, 128):
            for case in group["tests"]:
                key, nonce, associated = (bytes.fromhex(case[part]) for part in ("key", "iv", "aad"))
                yield case, key, nonce, associated, bytes.fromhex(case["ct"] + case["tag"])


def groups(name: str) -> list[dict[str, Any]]:
    path = VECTORS / "wycheproof" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no published vectors at {path}: set CYPHONIC_VECTORS to their folder")
    found: list[dict[str, Any]] = json.loads(path.read_text())["testGroups"]
    return found


def test_every_exchange_is_right_or_refused_where_it_would_be_zero() -> None:
    for group in groups("x25519_test"):
        for case in group["tests"]:
            secret, public, shared = (bytes.fromhex(case[key]) for key in ("private", "public", "shared"))
            if any(shared):
                assert exchange(secret, public) == shared, case
            else:
                with pytest.raises(MalformedError, match="bad_key"):
                    exchange(secret, public)


def test_every_signature_is_judged_right() -> None:
    for group in groups("ed25519_test"):
        public = bytes.fromhex(group["publicKey"]["pk"])
        for case in group["tests"]:
            message, signature = bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"])
            if case["result"] == "valid":
                verify(public, message, signature)
            else:
                with pytest.raises(MalformedError, match="bad_signature"):
                    verify(public, message, signature)


@pytest.mark.parametrize(
    ("suite", "name", "cases"),
    [(Suite.AES_256_GCM, "aes_gcm_test", 66), (Suite.CHACHA20_POLY1305, "chacha20_poly1305_test", 316)],
)
def test_a_session_of_either_suite_opens_what_is_right_and_nothing_else(
    suite: Suite, name: str, cases: int
) -> None:
    seen = 0
    for case, key, nonce, associated, sealed in aead(name, 256, 96):
        seen += 1
        session = Session(suite, key, key, local_index=1, peer_index=2, initiator=True)
        if case["result"] == "valid":
            message = bytes.fromhex(case["msg"])
            assert session._decrypt(nonce, sealed, associated) == message, case
            assert session._encrypt(nonce, message, associated) == sealed, case
        else:
            with pytest.raises(InvalidTag):
                session._decrypt(nonce, sealed, associated)
    assert seen == cases


def test_signaling_opens_what_is_right_and_nothing_else() -> None:
    for case, key, nonce, associated, sealed in aead("chacha20_poly1305_test", 256, 96):
        datagram, header = bytes(40) + nonce + sealed, Associated(associated)
        if case["result"] == "valid":
            assert open_signaling(datagram, header, key).hex() == case["msg"], case  # type: ignore[arg-type]
        else:
            with pytest.raises(MalformedError, match="bad_seal"):
                open_signaling(datagram, header, key)  # type: ignore[arg-type]


def test_cookies_are_opened_when_they_are_right_and_never_else() -> None:
    """A cookie and its MAC1 have 16 bytes each; what is of another size goes through the same function alone."""
    opened = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt
    for case, key, nonce, associated, sealed in aead("xchacha20_poly1305_test", 256, 192):
        if case["result"] == "valid":
            assert opened(sealed, associated, nonce, key).hex() == case["msg"], case
        else:
            with pytest.raises(CryptoError):
                opened(sealed, associated, nonce, key)
        if len(sealed) == 32:
            reply = CookieReply(bytes(39), nonce, sealed).encode()
            request = associated.ljust(16, b"\0")[:16] + bytes(16)
            if case["result"] == "valid" and len(associated) == 16:
                assert cookie.open_cookie(reply, request, key).hex() == case["msg"], case
            else:
                with pytest.raises(MalformedError, match="bad_cookie"):
                    cookie.open_cookie(reply, request, key)
