from __future__ import annotations

import pytest

from cyphonic.node.masking import Masker

ZONE = "main.cyphonic.internal"


def masker() -> Masker:
    return Masker(["alice", f"bob.{ZONE}"], ZONE)


def test_the_same_address_becomes_the_same_word_everywhere() -> None:
    mask = masker().mask
    assert mask("192.168.1.5:7703 and 8.8.8.8 and 192.168.1.5") == (
        "ipv4-private-1:7703 and ipv4-public-1 and ipv4-private-1"
    )
    mask = masker().mask
    first, again = mask("from 8.8.8.8"), mask("to 8.8.8.8/24")
    assert (first, again) == ("from ipv4-public-1", "to ipv4-public-1/24")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("[2a00:1450::200e]:7703", "[ipv6-public-1]:7703"),
        ("inet6 fe80::1/64", "inet6 ipv6-linklocal-1/64"),
        ("fd00:1:2::5 dev", "ipv6-private-1 dev"),
        ("2A00:1450:0:0::200E = 2a00:1450::200e", "ipv6-public-1 = ipv6-public-1"),
        ("::ffff:8.8.8.8", "ipv6-public-1"),
        ("link/ether 02:00:5e:10:00:01", "link/ether hardware-1"),
        ("/home/carol/x", "/home/user-1/x"),
    ],
)
def test_addresses_of_every_kind_are_masked(text: str, masked: str) -> None:
    assert masker().mask(text) == masked


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1 ::1 0.0.0.0 ::", "06:53:19", "time=2026-01-01T06:53:19.123Z", "0.1.0", "Python 3.11.2", "a::b::c"],
)
def test_what_is_no_address_or_says_nothing_stays(text: str) -> None:
    assert masker().mask(text) == text


def test_names_are_masked_bare_and_whole_and_those_that_only_a_log_knows_too() -> None:
    text = masker().mask(f"alice pings bob.{ZONE}, then eve.{ZONE}; eve answers alice, not alice-two")
    assert "alice " not in text.replace("alice-two", "")
    assert "bob" not in text
    assert "eve" not in text
    assert ZONE not in text
    words = text.split()
    assert words[0] == words[-3].rstrip(",")


def test_keys_are_masked() -> None:
    key = "A" * 43 + "="
    assert masker().mask(f'"public_key": "{key}"') == '"public_key": "key-1"'
