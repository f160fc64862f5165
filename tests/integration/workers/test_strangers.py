"""What workers do for strangers: nothing that is longer than what was asked, and nothing that stays."""

from __future__ import annotations

import os

import pytest

from cyphonic.protocol.keys import KeyPair
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import AS_REQUESTS, INTERNAL, NMS_REQUESTS, MessageType, SignalingHeader
from cyphonic.wire.job import Job, Origin, Route
from cyphonic.wire.login import LOGIN_REQUEST_LENGTH, LoginOutcome
from tests.region import AS_ENDPOINT, FakeNode, Region

HERE = Endpoint("198.51.100.1", 4000)
ROUTE = Route(*AS_ENDPOINT, *HERE)
MACS = 32


@pytest.fixture
def region(store: Store) -> Region:
    return Region(store)


def everything(store: Store) -> dict[bytes, object]:
    """All keys, and what they hold."""
    keys = sorted(store.run(("KEYS", b"*")))
    return {key: store.run(("DUMP", key)) for key in keys}


@pytest.mark.parametrize("kind", sorted(AS_REQUESTS | NMS_REQUESTS | INTERNAL), ids=lambda kind: kind.name)
@pytest.mark.parametrize("body", [28, 64, 1000])
def test_a_message_that_nobody_sealed_leaves_nothing_behind(region: Region, kind: MessageType, body: int) -> None:
    length = LOGIN_REQUEST_LENGTH - 40 - MACS if kind is MessageType.LOGIN_REQUEST else body
    before = everything(region.store)
    for node_id in (bytes(16), os.urandom(16)):
        header = SignalingHeader(kind, 1, node_id, os.urandom(16))
        job = Job(header.encode() + os.urandom(length), Origin.UDP, ROUTE)
        outcome = region.handle([job])
        assert outcome.forwards == []
        assert all(len(send.datagram) <= len(job.datagram) for send in outcome.sends)
        assert all(send.datagram[0] == MessageType.KEY_UNKNOWN for send in outcome.sends)
    assert everything(region.store) == before


def test_a_login_of_a_key_that_nobody_enrolled_leaves_nothing_behind(region: Region) -> None:
    region.enrolment_key()
    before = everything(region.store)
    for enrolment_key in (b"", os.urandom(32)):
        node = FakeNode(region, "stranger", HERE, KeyPair.generate(os.urandom))
        initiator, job = node.login_job(enrolment_key)
        outcome = region.handle([job])
        (send,) = outcome.sends
        assert len(send.datagram) <= len(job.datagram) + MACS
        refused = LoginOutcome(initiator.read_response(send.datagram).outcome)
        assert refused in (LoginOutcome.NOT_ENROLLED, LoginOutcome.ENROLMENT_KEY_UNKNOWN)
        assert outcome.forwards == []
    assert everything(region.store) == before
