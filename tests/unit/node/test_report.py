"""What the daemon says when the cloud does not answer."""

from __future__ import annotations

import os
from collections import Counter
from socket import AF_INET

import pytest

from cyphonic.node.report import unreachable_text
from cyphonic.protocol.client import Cloud, CloudUnreachable, Identity, SignalingClient
from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.protocol.session import supported_suites
from cyphonic.wire.endpoint import Endpoint


@pytest.fixture
def client() -> SignalingClient:
    endpoints = (Endpoint("192.0.2.1", 7701), Endpoint("2001:db8::1", 7701))
    signing = SigningKeyPair.generate(os.urandom)
    cloud = Cloud(KeyPair.generate(os.urandom).public, signing.public, endpoints, "main", "example")
    identity = Identity(KeyPair.generate(os.urandom), "alice")
    return SignalingClient(identity, cloud, os.urandom, suites=supported_suites(True), software="test")


@pytest.mark.parametrize(
    ("reason", "drops", "text"),
    [
        (
            "unanswered",
            {},
            "no answer by UDP from the cloud's AS (192.0.2.1:7701): it is down, or this network blocks",
        ),
        ("unanswered", {"underlay_filtered": 3}, "a firewall on this machine forbids UDP"),
        ("unanswered", {"underlay_unreachable": 1}, "no route"),
        ("no_underlay", {}, "no address family in common"),
    ],
)
def test_an_unreachable_cloud_is_explained(
    client: SignalingClient, reason: str, drops: dict[str, int], text: str
) -> None:
    said = unreachable_text(CloudUnreachable("AS", reason, AF_INET), client, Counter(drops))
    assert text in said
    assert "192.0.2.1:7701" in said
