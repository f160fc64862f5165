from __future__ import annotations

import os

import pytest

from cyphonic.errors import MalformedError
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.token import open_token, seal_token
from cyphonic.wire.direction import Role
from cyphonic.wire.relay import MAX_TOKEN_LENGTH, RelayToken

NMS = KeyPair.from_secret(b"n" * 32)
RELAY = KeyPair.from_secret(b"r" * 32)
TOKEN = RelayToken(b"p" * 16, Role.RESPONDER, b"b" * 32, 2**64 - 1, 2**32 - 1)


def test_a_token_opens_at_its_relay_and_fits_a_relay_bind() -> None:
    data = seal_token(TOKEN, NMS, RELAY.public, os.urandom)
    assert len(data) <= MAX_TOKEN_LENGTH
    assert open_token(data, RELAY, NMS.public) == TOKEN


def test_a_token_is_no_good_at_another_relay_or_from_another_nms() -> None:
    stranger = KeyPair.from_secret(b"x" * 32)
    for data, relay in (
        (seal_token(TOKEN, NMS, RELAY.public, os.urandom), stranger),
        (seal_token(TOKEN, stranger, RELAY.public, os.urandom), RELAY),
    ):
        with pytest.raises(MalformedError, match="bad_token"):
            open_token(data, relay, NMS.public)


def test_no_flipped_bit_passes() -> None:
    data = seal_token(TOKEN, NMS, RELAY.public, os.urandom)
    for position in range(8 * len(data)):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(MalformedError, match="bad_token"):
            open_token(bytes(changed), RELAY, NMS.public)


def test_a_truncated_or_prolonged_token_is_refused() -> None:
    data = seal_token(TOKEN, NMS, RELAY.public, os.urandom)
    for bad in [*(data[:length] for length in range(len(data))), data + b"\0", bytes(MAX_TOKEN_LENGTH + 1)]:
        with pytest.raises(MalformedError, match="bad_token"):
            open_token(bad, RELAY, NMS.public)
