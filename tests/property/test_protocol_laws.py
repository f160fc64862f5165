"""Laws of the protocol core, whatever the bytes, keys, orders and losses."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyphonic.errors import DropError, NotAllowedError
from cyphonic.protocol.certificate import read_certificate, sign_certificate
from cyphonic.protocol.handshake import (
    TunnelInitiator,
    choose_suite,
    read_tunnel_request,
    write_tunnel_response,
)
from cyphonic.protocol.keys import KeyPair, SigningKeyPair, decode_key, encode_key, open_box, seal_box
from cyphonic.protocol.login import LoginInitiator, read_login_request, write_login_response
from cyphonic.protocol.mac import append_macs, check_mac1, mac1_key, strip_macs
from cyphonic.protocol.replay import ReplayWindow
from cyphonic.protocol.session import Session
from cyphonic.protocol.signaling import open_signaling, seal_signaling
from cyphonic.protocol.token import open_token, seal_token
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.codec import decode
from cyphonic.wire.direction import DirectionRequest, Role
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.login import LoginRequest, LoginResponse
from cyphonic.wire.relay import RelayToken
from cyphonic.wire.tunnel import Suite

identifiers = st.binary(min_size=16, max_size=16)
keys = st.binary(min_size=32, max_size=32)
pairs = keys.map(KeyPair.from_secret)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
suites = st.lists(st.sampled_from(Suite), min_size=1, max_size=2, unique=True)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(MessageType), u32, identifiers, identifiers, keys, u64, st.text(max_size=128))
def test_signaling_survives_sealing(
    kind: MessageType, number: int, node: bytes, transaction: bytes, key: bytes, time: int, fqdn: str
) -> None:
    header, body = SignalingHeader(kind, number, node, transaction), DirectionRequest(time, fqdn, b"")
    datagram = seal_signaling(header, body, key, random.Random(time).randbytes)
    seen = SignalingHeader.decode(datagram)
    assert seen == header
    assert decode(open_signaling(datagram, seen, key), DirectionRequest) == body


@settings(max_examples=50, deadline=None)
@given(keys, st.binary(max_size=300))
def test_any_bytes_opened_as_signaling_are_dropped(key: bytes, noise: bytes) -> None:
    datagram = SignalingHeader(MessageType.KEEP_ALIVE, 1, bytes(16), bytes(16)).encode() + noise
    with pytest.raises(DropError):
        open_signaling(datagram, SignalingHeader.decode(datagram), key)


@settings(max_examples=50, deadline=None)
@given(keys, st.binary(min_size=1, max_size=1200), st.binary(max_size=16))
def test_macs_strip_to_what_they_were_appended_to(public: bytes, datagram: bytes, cookie: bytes) -> None:
    sent = append_macs(datagram, mac1_key(public), cookie)
    check_mac1(sent, mac1_key(public))
    assert strip_macs(sent) == datagram


@settings(max_examples=30, deadline=None)
@given(pairs, pairs, identifiers, u64, st.text(max_size=63), st.binary(max_size=64))
def test_every_login_fills_1200_bytes_and_is_answered(
    node: KeyPair, service: KeyPair, transaction: bytes, stamp: int, name: str, enrolment_key: bytes
) -> None:
    dice = random.Random(stamp).randbytes
    initiator = LoginInitiator(node, service.public, dice)
    request = initiator.request(transaction, LoginRequest(stamp, name, enrolment_key, [1], "test"))
    assert len(request) == 1200
    attempt = read_login_request(strip_macs(request), service)
    assert (attempt.static_key, attempt.body.name, attempt.body.stamp) == (node.public, name, stamp)
    assert initiator.read_response(write_login_response(attempt, LoginResponse(4), dice)) == LoginResponse(4)


@settings(max_examples=30, deadline=None)
@given(pairs, pairs, identifiers, keys, u32, u32, suites, suites, u64)
def test_every_tunnel_handshake_ends_in_two_sessions_that_understand_each_other(
    alice: KeyPair,
    bob: KeyPair,
    path_id: bytes,
    path_key: bytes,
    alices_index: int,
    bobs_index: int,
    offered: list[Suite],
    supported: list[Suite],
    stamp: int,
) -> None:
    dice = random.Random(stamp).randbytes
    initiator = TunnelInitiator(alice, bob.public, path_id, path_key, alices_index, dice)
    attempt = read_tunnel_request(initiator.request(stamp, offered), bob, path_key)
    assert (attempt.remote_static, attempt.payload.stamp) == (alice.public, stamp)
    if not set(offered) & set(supported):
        with pytest.raises(NotAllowedError, match="no_common_suite"):
            choose_suite(attempt.payload.suites, supported)
        return
    suite = choose_suite(attempt.payload.suites, supported)
    response, bobs = write_tunnel_response(attempt, path_key, bobs_index, suite, dice)
    alices = initiator.read_response(response)
    assert alices.suite is bobs.suite is suite
    assert bobs.open(alices.seal(MessageType.CAPSULE, path_id)) == (path_id, 0)
    assert alices.open(bobs.seal(MessageType.CAPSULE, path_id)) == (path_id, 0)


@settings(deadline=None)
@given(suites, suites)
def test_both_ends_would_choose_the_same_suite(ours: list[Suite], theirs: list[Suite]) -> None:
    if set(ours) & set(theirs):
        assert choose_suite(ours, theirs) is choose_suite(theirs, ours)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["pass", "forge", "cut"])), max_size=80))
def test_a_session_delivers_each_datagram_at_most_once_whatever_the_network_does(
    deliveries: list[tuple[int, str]],
) -> None:
    sender = Session(Suite.AES_256_GCM, bytes(32), bytes(32), local_index=1, peer_index=2, initiator=True)
    receiver = Session(Suite.AES_256_GCM, bytes(32), bytes(32), local_index=2, peer_index=1, initiator=False)
    datagrams = [sender.seal(MessageType.CAPSULE, bytes([number])) for number in range(61)]
    delivered: list[int] = []
    for number, fate in deliveries:
        datagram = datagrams[number]
        if fate == "pass" and number not in delivered:
            assert receiver.open(datagram) == (bytes([number]), number)
            delivered.append(number)
            continue
        if fate == "forge":
            datagram = datagram[:-1] + bytes([datagram[-1] ^ 1])
        elif fate == "cut":
            datagram = datagram[:-1]
        with pytest.raises(DropError):
            receiver.open(datagram)
    assert receiver.received == len(delivered)
    assert receiver.highest_counter == max(delivered, default=-1)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([1, 2, 8, 64]),
    st.lists(st.one_of(st.integers(0, 200), st.integers(2**64 - 300, 2**64 - 1)), max_size=150),
)
def test_the_replay_window_decides_as_a_set_that_remembers_everything(size: int, counters: list[int]) -> None:
    window, seen = ReplayWindow(size), set[int]()
    for counter in counters:
        acceptable = counter not in seen and counter > max(seen, default=-1) - size
        try:
            window.check(counter)
            window.accept(counter)
        except NotAllowedError:
            assert not acceptable
        else:
            assert acceptable
            seen.add(counter)
    assert window.highest == max(seen, default=-1)


@settings(max_examples=50, deadline=None)
@given(keys, identifiers, keys, st.text(max_size=100), u64, u32)
def test_certificates_survive_signing(
    seed: bytes, node_id: bytes, static: bytes, fqdn: str, expires: int, generation: int
) -> None:
    certificate = Certificate(fqdn, node_id, static, node_id, b"", [], expires, generation)
    signing = SigningKeyPair.from_seed(seed)
    try:
        data = sign_certificate(certificate, signing)
    except DropError:
        assert len(fqdn.encode()) > 200
        return
    assert read_certificate(data, signing.public) == certificate


@settings(max_examples=50, deadline=None)
@given(pairs, pairs, identifiers, st.sampled_from(Role), keys, u64, u32)
def test_tokens_survive_sealing(
    nms: KeyPair, relay: KeyPair, path_id: bytes, role: Role, bind_key: bytes, expires: int, rate: int
) -> None:
    token = RelayToken(path_id, role, bind_key, expires, rate)
    assert (
        open_token(seal_token(token, nms, relay.public, random.Random(rate).randbytes), relay, nms.public) == token
    )


@settings(max_examples=50, deadline=None)
@given(pairs, pairs, st.binary(min_size=24, max_size=24), st.binary(max_size=200))
def test_boxes_and_key_texts_survive(alice: KeyPair, bob: KeyPair, nonce: bytes, plaintext: bytes) -> None:
    box = seal_box(alice.secret, bob.public, nonce, plaintext)
    assert open_box(bob.secret, alice.public, nonce, box) == plaintext
    assert decode_key(encode_key(alice.public)) == alice.public
