"""Project Wycheproof's hard cases, through our own functions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cyphonic.errors import MalformedError
from cyphonic.protocol.keys import exchange, verify

ROOT = Path(__file__).parents[3]
VECTORS = Path(os.environ.get("CYPHONIC_VECTORS", ROOT.parent / "shared" / "vectors"))


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
