"""Sealed secrets."""

from __future__ import annotations

import os

import pytest

from cyphonic.errors import MalformedError
from cyphonic.state.vault import Vault


def test_a_secret_opens_at_its_place_only() -> None:
    vault = Vault(bytes(32), os.urandom)
    sealed = vault.seal(b"here", b"secret")
    assert vault.open(b"here", sealed) == b"secret"
    for place, damaged in ((b"there", sealed), (b"here", sealed[:-1]), (b"here", b"")):
        with pytest.raises(MalformedError, match="bad_vault"):
            vault.open(place, damaged)


def test_another_state_key_opens_nothing() -> None:
    sealed = Vault(bytes(32), os.urandom).seal(b"here", b"secret")
    with pytest.raises(MalformedError, match="bad_vault"):
        Vault(b"1" * 32, os.urandom).open(b"here", sealed)
