"""The cloud cannot read what nodes say to each other.

``Attacker`` is handed *holdings*: the bytes of everything that Redis, the AS, the
NMS and the relay ever held or saw, whole datagrams and all keys in the clear.  It tries every 32 bytes of them, at
every offset, wherever the handshake needs a secret, and every 32 bytes as an end key.

To show that it fails for want of secrets and not of skill, it is then handed one ephemeral secret more, and reads
everything.  It may even have both nodes' static keys from the start, as if both disks were stolen later: what was
said before stays secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from cyphonic.protocol.certificate import sign_certificate
from cyphonic.protocol.distribution import seal_distribution
from cyphonic.protocol.handshake import TunnelInitiator, read_tunnel_request, write_tunnel_response
from cyphonic.protocol.keys import KeyPair, SigningKeyPair, exchange
from cyphonic.protocol.login import LoginInitiator, read_login_request, write_login_response
from cyphonic.protocol.mac import append_macs, mac, mac1_key, strip_macs
from cyphonic.protocol.noise import IKPSK2, SymmetricState
from cyphonic.protocol.signaling import seal_signaling
from cyphonic.protocol.token import seal_token
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.codec import encode
from cyphonic.wire.direction import RelayGrant, Role, RouteDirection
from cyphonic.wire.header import MessageType, SignalingHeader, encode_relayed
from cyphonic.wire.login import KeyDistribution, LoginRequest, LoginResponse
from cyphonic.wire.relay import NO_CHALLENGE, RelayBind, RelayToken
from cyphonic.wire.tunnel import Suite, TunnelRequest, TunnelResponse

SAID = b"what only the two nodes may know"


@dataclass
class Recording:
    """One tunnel: what anybody on the way saw of it, what the cloud held, and what only the nodes had."""

    request: bytes
    response: bytes
    capsules: list[bytes]
    statics: tuple[bytes, bytes]
    """Public: they stand in the certificates."""
    path_id: bytes
    path_key: bytes
    """Known to the NMS, so the attacker need not even look for it."""
    holdings: list[bytes] = field(default_factory=list)
    secrets: dict[str, bytes] = field(default_factory=dict)


class Remembering:
    """Chance that keeps what it gave, as no node does."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def __call__(self, length: int) -> bytes:
        self.given.append(os.urandom(length))
        return self.given[-1]


def record(suite: Suite) -> Recording:
    """Two logins, a direction, a relay binding and a tunnel, with everything that the cloud touches kept."""
    alice, bob, authentication, nms, relay = (KeyPair.generate(os.urandom) for _ in range(5))
    signing = SigningKeyPair.generate(os.urandom)
    path_id, path_key, bind_key = os.urandom(16), os.urandom(32), os.urandom(32)
    held = [authentication.secret, signing.seed, nms.secret, relay.secret, path_key, path_id, bind_key]
    for node in (alice, bob):
        held += _login(node, authentication, signing, nms)
        held += _direction(node, path_id, path_key, bind_key, nms, relay)
    alices_chance, bobs_chance = Remembering(), Remembering()
    initiator = TunnelInitiator(alice, bob.public, path_id, path_key, 1, alices_chance)
    request = initiator.request(1, [suite])
    attempt = read_tunnel_request(request, bob, path_key)
    response, bobs = write_tunnel_response(attempt, path_key, 2, suite, bobs_chance)
    alices = initiator.read_response(response)
    capsules = [alices.seal(MessageType.CAPSULE, SAID), bobs.seal(MessageType.CAPSULE, SAID)]
    held += [encode_relayed(3) + datagram for datagram in (request, response, *capsules)]
    secrets = {
        "initiator's ephemeral": alices_chance.given[0],
        "responder's ephemeral": bobs_chance.given[0],
        "initiator's static": alice.secret,
        "responder's static": bob.secret,
    }
    return Recording(request, response, capsules, (alice.public, bob.public), path_id, path_key, held, secrets)


def _login(node: KeyPair, authentication: KeyPair, signing: SigningKeyPair, nms: KeyPair) -> list[bytes]:
    common_key, transaction = os.urandom(32), os.urandom(16)
    certificate = sign_certificate(
        Certificate("a.home.example", os.urandom(16), node.public, bytes(16), b"", [], 2**31, 1), signing
    )
    initiator = LoginInitiator(node, authentication.public, os.urandom)
    request = initiator.request(transaction, LoginRequest(1, "a", os.urandom(32), [1], ""))
    attempt = read_login_request(strip_macs(request), authentication)
    distribution = KeyDistribution(node.public, "a.home.example", common_key, 1, 1)
    job = seal_distribution(
        MessageType.KEY_DISTRIBUTION, transaction, distribution, authentication, nms.public, os.urandom
    )
    answer = LoginResponse(0, common_key, 1, 86400, certificate)
    response = write_login_response(attempt, answer, os.urandom)
    return [
        common_key,
        certificate,
        request,
        encode(attempt.body),
        job,
        encode(distribution),
        encode(answer),
        response,
    ]


def _direction(
    node: KeyPair, path_id: bytes, path_key: bytes, bind_key: bytes, nms: KeyPair, relay: KeyPair
) -> list[bytes]:
    common_key = os.urandom(32)
    token = RelayToken(path_id, Role.INITIATOR, bind_key, 2**31, 0)
    sealed_token = seal_token(token, nms, relay.public, os.urandom)
    grant = RelayGrant(relay.public, [], sealed_token, bind_key)
    route = RouteDirection(bytes(16), path_id, 0, 0, node.public, [], path_key, 3600, [grant], 0)
    header = SignalingHeader(MessageType.ROUTE_DIRECTION, 1, os.urandom(16), os.urandom(16))
    bind = RelayBind(Role.INITIATOR, 1, path_id, NO_CHALLENGE, sealed_token).encode()
    return [
        common_key,
        encode(route),
        seal_signaling(header, route, common_key, os.urandom),
        encode(token),
        append_macs(bind + mac(bind_key, bind), mac1_key(relay.public)),
    ]


def windows(holdings: list[bytes]) -> set[bytes]:
    """Every 32 bytes of everything, at every offset."""
    return {held[start : start + 32] for held in holdings for start in range(len(held) - 31)}


@cache
def public_of(secret: bytes) -> bytes:
    return KeyPair.from_secret(secret).public


class Attacker:
    """Runs the handshake from outside: each of its four exchanges needs the secret of one of its two keys."""

    def __init__(self, recording: Recording, holdings: list[bytes]) -> None:
        self.recording = recording
        self.candidates = windows(holdings)
        self.secret_of = {public_of(candidate): candidate for candidate in self.candidates}

    def open_capsules(self) -> list[bytes]:
        """What the capsules say, as far as anybody can compute it."""
        opened = []
        for key, capsule in product([*self.end_keys(), *self.candidates], self.recording.capsules):
            for cipher in (AESGCM, ChaCha20Poly1305):
                with suppress(InvalidTag):
                    opened.append(cipher(key).decrypt(bytes(4) + capsule[8:16], capsule[16:], capsule[:16]))
        return opened

    def end_keys(self) -> tuple[bytes, ...]:
        """Both keys of the session, or none."""
        first = TunnelRequest.decode(self.recording.request).noise
        second = TunnelResponse.decode(self.recording.response).noise
        initiator, responder = self.recording.statics
        state = SymmetricState(IKPSK2.protocol_name)
        state.mix_hash(b"cyphonic tunnel v1" + self.recording.request[:24])
        state.mix_hash(responder)
        state.mix_hash(first[:32])
        state.mix_key(first[:32])
        after_es = self.advance(state, zip(self.shared(first[:32], responder)), first[32:80])
        after_ss = after_es and self.advance(after_es, zip(self.shared(initiator, responder)), first[80:])
        if not after_ss:
            return ()
        after_ss.mix_hash(second[:32])
        after_ss.mix_key(second[:32])
        ee, se = self.shared(first[:32], second[:32]), self.shared(initiator, second[:32])
        # With both unknown there is no guessing one at a time, so the two lists are only walked side by side.
        guesses = product(ee, se) if 1 in (len(ee), len(se)) else zip(ee, se, strict=True)
        done = self.advance(after_ss, guesses, second[32:], self.recording.path_key)
        return done.split() if done else ()

    def shared(self, one: bytes, other: bytes) -> list[bytes]:
        """The exchange where it can be computed; else every 32 bytes in its place: perhaps somebody kept it."""
        for mine, theirs in ((one, other), (other, one)):
            if mine in self.secret_of:
                return [exchange(self.secret_of[mine], theirs)]
        return list(self.candidates)

    def advance(
        self, state: SymmetricState, guesses: Iterable[tuple[bytes, ...]], sealed: bytes, psk: bytes = b""
    ) -> SymmetricState | None:
        """The state after the guess under which ``sealed`` opens."""
        for guess in guesses:
            attempt = copy(state)
            for material in guess:
                attempt.mix_key(material)
            if psk:
                attempt.mix_key_and_hash(psk)
            with suppress(InvalidTag):
                attempt.decrypt_and_hash(sealed)
                return attempt
        return None


@pytest.fixture(scope="module", params=list(Suite), ids=lambda suite: suite.name)
def recording(request: pytest.FixtureRequest) -> Recording:
    return record(request.param)


INITIATOR, RESPONDER = ("initiator's static",), ("responder's static",)
DISKS = INITIATOR + RESPONDER


@pytest.mark.parametrize("stolen", [(), INITIATOR, RESPONDER, DISKS], ids=" and ".join)
def test_with_everything_that_the_cloud_ever_held_no_capsule_opens_not_even_with_both_disks(
    recording: Recording, stolen: tuple[str, ...]
) -> None:
    holdings = recording.holdings + [recording.secrets[name] for name in stolen]
    assert Attacker(recording, holdings).open_capsules() == []


@pytest.mark.parametrize("ephemeral", ["initiator's ephemeral", "responder's ephemeral"])
def test_the_same_code_opens_every_capsule_when_it_is_handed_one_ephemeral_secret_more(
    recording: Recording, ephemeral: str
) -> None:
    holdings = recording.holdings + [recording.secrets[name] for name in (*DISKS, ephemeral)]
    assert Attacker(recording, holdings).open_capsules() == [SAID, SAID]


@pytest.mark.parametrize("ephemeral", ["initiator's ephemeral", "responder's ephemeral"])
def test_an_ephemeral_secret_without_the_static_one_is_not_enough_for_the_cloud(
    recording: Recording, ephemeral: str
) -> None:
    holdings = [*recording.holdings, recording.secrets[ephemeral]]
    assert Attacker(recording, holdings).open_capsules() == []


@pytest.mark.parametrize("what", ["shared secret of the ephemeral keys", "end key"])
def test_the_attacker_would_find_a_key_that_lay_about_anywhere(recording: Recording, what: str) -> None:
    """So what it does not find was not there."""
    secrets = recording.secrets
    opener = Attacker(recording, [*recording.holdings, *secrets.values()])
    leaked = {
        "shared secret of the ephemeral keys": exchange(
            secrets["initiator's ephemeral"], public_of(secrets["responder's ephemeral"])
        ),
        "end key": opener.end_keys()[0],
    }[what]
    stolen = [secrets[name] for name in DISKS]
    hidden = b"somewhere in a log" + leaked + b"\n"
    assert SAID in Attacker(recording, [*recording.holdings, *stolen, hidden]).open_capsules()
