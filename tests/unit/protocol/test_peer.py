"""Two peers, directed by hand, in virtual time: first path, fallback, glare, upgrade, silence, expiry."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from socket import AF_INET, AddressFamily

import pytest

from cyphonic.errors import DropError, NotAllowedError
from cyphonic.protocol.attempt import MAX_PUNCHES_ANSWERED
from cyphonic.protocol.handshake import TunnelInitiator
from cyphonic.protocol.index import IndexTable
from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.limits import PEER_IDLE, PROBED_DIRECTIONS, REJECT_AFTER_TIME, REKEY_AFTER_TIME
from cyphonic.protocol.outbox import Outbox
from cyphonic.protocol.own import Self
from cyphonic.protocol.paths import Destination, PathKind
from cyphonic.protocol.peer import Peer
from cyphonic.protocol.session import supported_suites
from cyphonic.protocol.token import seal_token
from cyphonic.relay.bindings import BindingTable, Way
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.direction import FirstPath, RelayGrant, Role, RouteDirection
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import RELAYED_HEADER_LENGTH, MessageType
from cyphonic.wire.relay import RelayToken

RELAY = Endpoint("192.0.2.99", 4502)


class Chance:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, length: int) -> bytes:
        return self.random.randbytes(length)


def packet_from(certificate: Certificate, payload: bytes = b"hello") -> bytes:
    return bytes([0x60, 0, 0, 0, 0, len(payload), 59, 64]) + certificate.virtual_ipv6 + bytes(16) + payload


class End:
    """One node with one peer: the little of an overlay that a peer's machine needs."""

    def __init__(self, name: str, seed: int, host: str) -> None:
        self.chance = Chance(seed)
        self.static = KeyPair.generate(self.chance)
        self.endpoint = Endpoint(host, 5000)
        self.certificate = Certificate(
            f"{name}.main.example",
            self.chance(16),
            self.static.public,
            self.chance(16),
            self.chance(4),
            ["default"],
            2**33,
            1,
        )
        self.outbox = Outbox()
        self.indices: IndexTable[Peer] = IndexTable(self.chance)
        self.peer: Peer
        self.drops: list[str] = []

    def meet(self, other: End) -> None:
        own = Self(self.static, self.chance, supported_suites(True), self.indices)
        self.peer = Peer(other.certificate, own, self.outbox)
        self.peer.families = frozenset({AddressFamily(AF_INET)})

    def receive(self, datagram: bytes, source: Endpoint, now: float) -> None:
        via = Destination(source)
        if datagram[0] == MessageType.RELAYED:
            via = Destination(source, datagram[:RELAYED_HEADER_LENGTH])
            datagram = datagram[RELAYED_HEADER_LENGTH:]
        kind = datagram[0]
        try:
            if kind in (MessageType.RELAY_BIND_CHALLENGE, MessageType.RELAY_BOUND):
                self.peer.receive_relay(datagram, source, now)
            elif kind == MessageType.TUNNEL_REQUEST:
                self.peer.receive_request(datagram, via, now)
            elif kind == MessageType.TUNNEL_RESPONSE:
                self.peer.receive_response(datagram, via, now)
            elif kind == MessageType.HOLE_PUNCH:
                self.peer.receive_punch(datagram, via, now)
            else:
                self.peer.receive_sealed(datagram, via, now)
        except DropError as drop:
            self.drops.append(drop.reason)


class Pair:
    """Two ends, a relay, and a wire whose direct datagrams pass only while ``direct`` says so."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 100.0
        self.ends = End("alice", seed, "192.0.2.1"), End("bob", seed + 1000, "192.0.2.2")
        self.ends[0].meet(self.ends[1])
        self.ends[1].meet(self.ends[0])
        chance = Chance(seed + 2000)
        self.nms = KeyPair.generate(chance)
        self.relay = BindingTable(KeyPair.generate(chance), self.nms.public, chance)
        self.chance = chance
        self.direct: Callable[[End, bytes], bool] = lambda end, datagram: True
        self.sent: list[tuple[End, bytes, Endpoint]] = []
        self.wire: list[tuple[float, End, bytes, Endpoint]] = []

    def direct_pair(self, first_path: FirstPath, *, relays: bool = True, initiator: int = 0) -> None:
        """What the NMS would send to both, the responder first."""
        path_id, path_key = self.chance(16), self.chance(32)
        for role in (Role.RESPONDER, Role.INITIATOR):
            end = self.ends[initiator if role is Role.INITIATOR else 1 - initiator]
            other = self.ends[1 - self.ends.index(end)]
            bind_key = self.chance(32)
            token = RelayToken(path_id, role, bind_key, 2**33, 0)
            grant = RelayGrant(
                self.relay.relay.public,
                [RELAY.encode()],
                seal_token(token, self.nms, self.relay.relay.public, self.chance),
                bind_key,
            )
            direction = RouteDirection(
                bytes(16),
                path_id,
                role,
                first_path,
                b"",
                [other.endpoint.encode()],
                path_key,
                3600,
                [grant] if relays else [],
                0,
            )
            end.peer.directed(direction, other.certificate, self.now)
            self.flush()

    def flush(self) -> None:
        for end in self.ends:
            datagrams, end.outbox.datagrams = end.outbox.datagrams, []
            for datagram, destination in datagrams:
                self.sent.append((end, datagram, destination))
                if destination == RELAY:
                    self._to_relay(end, datagram)
                elif self.direct(end, datagram):
                    other = self.ends[1 - self.ends.index(end)]
                    self.wire.append((self.now + 0.01, other, datagram, end.endpoint))

    def _to_relay(self, end: End, datagram: bytes) -> None:
        if datagram[0] == MessageType.RELAYED:
            source = (end.endpoint.host, end.endpoint.port)
            way = self.relay.forward(datagram[:8], source, len(datagram), 1, self.now)
            if way is not None:
                target = next(other for other in self.ends if other.endpoint == way.remote)
                self.wire.append((self.now + 0.02, target, datagram, RELAY))
        else:
            answer = self.relay.receive(datagram, Way(end.endpoint, ""), self.now, 1e9)
            if answer is not None:
                self.wire.append((self.now + 0.02, end, answer, RELAY))

    def run(self, seconds: float) -> None:
        end_time = self.now + seconds
        for _ in range(200_000):
            self.flush()
            deadlines = [end.peer.next_deadline() for end in self.ends]
            self.wire.sort(key=lambda item: item[0])
            arrival = self.wire[0][0] if self.wire else math.inf
            upcoming = min([*deadlines, arrival])
            if upcoming > end_time:
                self.now = end_time
                return
            self.now = max(self.now, upcoming)
            if arrival <= self.now:
                _, target, datagram, source = self.wire.pop(0)
                target.receive(datagram, source, self.now)
            for end, deadline in zip(self.ends, deadlines, strict=True):
                if deadline <= self.now:
                    end.peer.handle_timeout(self.now)
                    assert end.peer.next_deadline() > self.now, "a machine that is always due spins its node"
        pytest.fail("busy loop")

    def talk(self, end: int) -> list[bytes]:
        """Send one packet from an end; what the other one gets."""
        self.ends[end].peer.send_packet(packet_from(self.ends[end].certificate), self.now)
        self.run(0.2)
        packets = self.ends[1 - end].outbox.packets
        received = list(packets)
        packets.clear()
        return received


@pytest.mark.parametrize("first_path", list(FirstPath))
def test_every_first_path_leads_to_a_tunnel_both_ways(first_path: FirstPath) -> None:
    pair = Pair()
    pair.direct_pair(first_path)
    pair.run(1.0)
    assert all(end.peer.established for end in pair.ends)
    assert pair.talk(0)
    assert pair.talk(1)


def test_a_direct_pair_never_touches_the_relay() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(5.0)
    assert all(destination != RELAY for _, _, destination in pair.sent)
    assert all(end.peer.paths.current_kind is PathKind.DIRECT for end in pair.ends)


def test_when_nothing_direct_passes_the_relay_serves_within_a_second() -> None:
    pair = Pair()
    pair.direct = lambda end, datagram: False
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(1.0)
    assert all(end.peer.established for end in pair.ends)
    assert all(end.peer.paths.current_kind is PathKind.RELAYED for end in pair.ends)


def test_a_relayed_pair_settles_on_the_direct_path_once_checks_pass() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.RELAYED)
    pair.run(4.0)
    for end in pair.ends:
        assert end.peer.first_kind is PathKind.RELAYED
        assert end.peer.paths.current_kind is PathKind.DIRECT
        assert end.peer.paths.why == "a better path answered"


def test_families_that_do_not_meet_stay_on_the_relay_and_probe_nothing() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.RELAYED_ONLY)
    pair.run(10.0)
    assert all(end.peer.paths.current_kind is PathKind.RELAYED for end in pair.ends)
    assert all(destination == RELAY for _, _, destination in pair.sent)


def test_a_path_open_in_one_direction_only_is_never_settled_on() -> None:
    pair = Pair()
    alice, _ = pair.ends
    pair.direct = lambda end, datagram: end is alice
    pair.direct_pair(FirstPath.RELAYED)
    pair.run(30.0)
    assert all(end.peer.paths.current_kind is PathKind.RELAYED for end in pair.ends)
    assert pair.talk(0)
    assert pair.talk(1)


@pytest.mark.parametrize("talking", [(0,), (1,), (0, 1)])
def test_a_path_in_use_that_is_cut_in_one_direction_gives_way_to_the_relay_and_stays(
    talking: tuple[int, ...],
) -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(1.0)
    alice, _ = pair.ends
    pair.direct = lambda end, datagram: end is not alice
    kinds = []
    for _ in range(400):
        for number in talking:
            pair.talk(number)
        pair.run(0.2 if len(talking) == 1 else 0.0)
        for asking, end in enumerate(pair.ends):
            if end.peer.direction_wanted:
                end.peer.direction_wanted = False
                pair.direct_pair(FirstPath.DIRECT, initiator=asking)
        kinds.append(tuple(end.peer.paths.current_kind for end in pair.ends))
    relayed = (PathKind.RELAYED, PathKind.RELAYED)
    assert kinds.index(relayed) * 0.4 < 25
    assert set(kinds[kinds.index(relayed) :]) == {relayed}
    assert pair.talk(0)
    assert pair.talk(1)


def test_a_punch_brings_the_request_to_where_it_came_from_a_few_times_in_all() -> None:
    pair = Pair()
    alice, bob = pair.ends
    pair.direct = lambda end, datagram: end is bob and datagram[0] == MessageType.HOLE_PUNCH
    pair.direct_pair(FirstPath.DIRECT_PUNCHED, relays=False)

    def requests() -> int:
        return sum(end is alice and datagram[0] == MessageType.TUNNEL_REQUEST for end, datagram, _ in pair.sent)

    pair.run(0.25)
    assert requests() == 2 + 3  # on its own at 0 and 0.1 s, and for the punches sent at 0, 0.1 and 0.2 s
    pair.run(1.5)
    assert requests() == 6 + MAX_PUNCHES_ANSWERED


def test_simultaneous_directions_end_in_one_tunnel() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT, initiator=0)
    pair.direct_pair(FirstPath.DIRECT, initiator=1)
    pair.run(3.0)
    first, second = (end.peer.session for end in pair.ends)
    assert first is not None
    assert second is not None
    assert (first.local_index, first.peer_index) == (second.peer_index, second.local_index)
    assert pair.talk(0)
    assert pair.talk(1)


def test_packets_staged_before_the_tunnel_arrive_in_order_and_the_oldest_give_way() -> None:
    pair = Pair()
    alice, bob = pair.ends
    for number in range(130):
        alice.peer.send_packet(packet_from(alice.certificate, number.to_bytes(4, "big")), pair.now)
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    assert [int.from_bytes(packet[40:], "big") for packet in bob.outbox.packets] == list(range(2, 130))


def test_a_packet_whose_inner_source_is_not_the_peers_is_dropped() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    alice, bob = pair.ends
    alice.peer.send_packet(packet_from(bob.certificate), pair.now)
    pair.run(0.2)
    assert not bob.outbox.packets
    assert bob.outbox.drops["inner_source"] == 1


def test_a_session_is_renewed_under_traffic_without_losing_a_packet() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    before = pair.ends[0].peer.session
    for _ in range(int(REKEY_AFTER_TIME) + 10):
        assert pair.talk(0)
        pair.run(0.8)
    assert pair.ends[0].peer.session is not before


def test_an_idle_session_expires_and_nothing_is_sent_any_more() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    pair.run(PEER_IDLE + 2 * REJECT_AFTER_TIME)
    assert not any(end.peer.established for end in pair.ends)
    assert len(pair.ends[0].indices) == 0
    pair.sent.clear()
    pair.run(60.0)
    assert not pair.sent


def test_a_direct_path_that_dies_gives_way_to_the_relay_and_comes_back() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    pair.direct = lambda end, datagram: False
    for _ in range(40):
        pair.talk(0)
        pair.talk(1)
    assert all(end.peer.paths.current_kind is PathKind.RELAYED for end in pair.ends)
    assert pair.talk(0)
    assert pair.talk(1)


def test_a_ping_over_a_dead_path_finds_it_silent_like_a_packet_does() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    pair.direct = lambda end, datagram: False
    assert pair.ends[0].peer.probe(pair.now) is not None
    pair.run(6)
    assert pair.ends[0].peer.direction_wanted
    pair.direct_pair(FirstPath.RELAYED)
    pair.run(4)
    assert pair.ends[0].peer.paths.current_kind is PathKind.RELAYED
    number = pair.ends[0].peer.probe(pair.now)
    pair.run(0.2)
    assert number in [answered for answered, _, _ in pair.ends[0].peer.round_trips]


def test_a_replayed_or_reflected_handshake_changes_nothing() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT_PUNCHED)
    pair.run(1.0)
    alice, bob = pair.ends
    sessions = alice.peer.session, bob.peer.session
    recorded = list(pair.sent)
    pair.run(20.0)
    for sender, datagram, _ in recorded:
        other = bob if sender is alice else alice
        if datagram[0] != MessageType.RELAYED:
            other.receive(datagram, Endpoint("198.51.100.7", 7), pair.now)
            sender.receive(datagram, Endpoint("198.51.100.7", 7), pair.now)
    pair.run(3.0)
    assert (alice.peer.session, bob.peer.session) == sessions
    assert all(end.peer.paths.current_kind is PathKind.DIRECT for end in pair.ends)
    assert alice.peer.paths.current == Destination(bob.endpoint)
    assert bob.peer.paths.current == Destination(alice.endpoint)


def test_closing_releases_every_index() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    for end in pair.ends:
        end.peer.close()
        assert len(end.indices) == 0
        assert end.peer.next_deadline() == math.inf


def test_a_peer_without_a_tunnel_asks_for_a_direction_once_in_a_while() -> None:
    end = End("alice", 5, "192.0.2.1")
    end.meet(End("bob", 6, "192.0.2.2"))
    asked = 0
    for step in range(200):
        end.peer.send_packet(packet_from(end.certificate), 100 + step * 0.1)
        asked += end.peer.direction_wanted
        end.peer.direction_wanted = False
    assert asked == 4


def test_a_sealed_datagram_of_an_unknown_session_is_refused() -> None:
    pair = Pair()
    with pytest.raises(NotAllowedError, match="no_session"):
        pair.ends[0].peer.receive_sealed(bytes(40), Destination(RELAY), 0.0)


def test_a_peer_that_dies_under_traffic_leaves_a_quiet_machine() -> None:
    for silent_for in range(1, 40):
        pair = Pair(silent_for)
        pair.direct_pair(FirstPath.DIRECT)
        pair.run(0.5)
        pair.direct = lambda end, datagram: False
        for _ in range(int(REJECT_AFTER_TIME) + silent_for):
            pair.ends[0].peer.send_packet(packet_from(pair.ends[0].certificate), pair.now)
            pair.run(1.0)
        assert not pair.ends[0].peer.established


def test_a_new_direction_replaces_an_attempt_that_the_peer_cannot_know() -> None:
    pair = Pair()
    alice, bob = pair.ends
    pair.direct = lambda end, datagram: False
    pair.direct_pair(FirstPath.DIRECT, relays=False)
    pair.run(3.0)
    bob.meet(alice)  # it has restarted
    pair.direct = lambda end, datagram: True
    alice.peer.send_packet(packet_from(alice.certificate), pair.now)
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    assert bob.outbox.packets
    assert alice.peer.established


def test_a_restarted_peer_is_answered_whoever_has_the_lower_key() -> None:
    for seed in range(6):
        pair = Pair(seed)
        alice, bob = pair.ends
        pair.direct = lambda end, datagram: end.endpoint.host == "192.0.2.2"
        pair.direct_pair(FirstPath.DIRECT, relays=False)
        pair.run(1.0)
        bob.meet(alice)
        pair.direct = lambda end, datagram: True
        pair.direct_pair(FirstPath.DIRECT, initiator=1)
        pair.run(1.0)
        assert pair.talk(1)
        assert pair.talk(0)


def test_one_look_up_of_an_unreachable_peer_asks_once() -> None:
    pair = Pair()
    alice, _ = pair.ends
    pair.direct = lambda end, datagram: False
    alice.peer.connect(pair.now)
    alice.peer.direction_wanted = False
    pair.direct_pair(FirstPath.DIRECT, relays=False)
    wanted = 0
    for _ in range(600):
        pair.run(1.0)
        wanted += alice.peer.direction_wanted
        alice.peer.direction_wanted = False
    assert wanted == 0
    assert alice.peer.paths.why == "the peer did not answer"


def test_a_grant_that_the_peer_never_got_does_not_end_a_healthy_tunnel() -> None:
    pair = Pair()
    alice, bob = pair.ends
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.5)
    before = bob.peer.path_ids
    pair.direct_pair(FirstPath.DIRECT)  # renewed, but only bob was told before the cloud went down
    [unknown] = [grant for grant in alice.peer._grants if grant.path_id not in before]
    alice.peer._drop_grant(unknown)
    for _ in range(600):
        assert pair.talk(0)
        assert pair.talk(1)
        pair.run(0.6)


def test_a_copied_hole_punch_from_elsewhere_is_refused_and_draws_nothing() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT_PUNCHED)
    pair.run(3.0)
    alice, bob = pair.ends
    punches = [datagram for end, datagram, _ in pair.sent if end is bob and datagram[0] == MessageType.HOLE_PUNCH]
    assert punches
    thief = Endpoint("203.0.113.66", 6)
    for _ in range(10):
        for punch in punches:
            alice.receive(punch, thief, pair.now)
    pair.run(5.0)
    assert not [1 for _, _, destination in pair.sent if destination == thief]
    assert "replayed" in alice.drops


def test_candidates_do_not_pile_up_over_many_directions() -> None:
    pair = Pair()
    for number in range(100):
        pair.ends[1].endpoint = Endpoint("192.0.2.2", 5000 + number)
        pair.direct_pair(FirstPath.DIRECT)
        pair.run(0.3)
    assert len(pair.ends[0].peer.paths.candidates()) < 20


THIEF = Endpoint("203.0.113.66", 6)


def _race(pair: Pair, kind: MessageType) -> None:
    """From now on a copy of every datagram of this kind arrives from elsewhere, before the original."""
    for end in pair.ends:
        receive = end.receive

        def first_the_copy(
            datagram: bytes, source: Endpoint, now: float, receive: Callable[..., None] = receive
        ) -> None:
            if datagram[0] == kind:
                receive(datagram, THIEF, now)
            receive(datagram, source, now)

        end.receive = first_the_copy  # type: ignore[method-assign]


def test_a_response_from_where_no_request_went_is_refused_and_the_true_one_taken() -> None:
    pair = Pair()
    _race(pair, MessageType.TUNNEL_RESPONSE)
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.2)
    alice, bob = pair.ends
    assert alice.peer.paths.current == Destination(bob.endpoint)
    assert "unlisted_source" in alice.drops
    assert pair.talk(0)


def test_the_first_capsule_from_a_copier_does_not_say_where_the_peer_is() -> None:
    pair = Pair()
    _race(pair, MessageType.CAPSULE)
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(0.2)
    alice, bob = pair.ends
    assert bob.peer.paths.current == Destination(alice.endpoint)
    assert pair.talk(1)


def test_a_response_that_comes_again_from_a_named_place_corrects_where_its_copy_led() -> None:
    """A copied HolePunch draws the request, so the copied response is not refused; the true one follows it."""
    pair = Pair()
    alice, bob = pair.ends
    _race(pair, MessageType.TUNNEL_RESPONSE)
    pair.direct_pair(FirstPath.DIRECT)
    assert alice.peer._attempt is not None
    alice.peer._ask(alice.peer._attempt, Destination(THIEF))
    pair.run(0.2)
    assert alice.peer.paths.current == Destination(bob.endpoint)
    pair.sent.clear()
    assert pair.talk(0)
    assert not [1 for _, datagram, to in pair.sent if to == THIEF and datagram[0] == MessageType.CAPSULE]


def test_a_direction_too_many_names_no_place_that_never_answered() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(1.0)
    alice, bob = pair.ends
    for number in range(PROBED_DIRECTIONS + 5):
        stranger = Endpoint("203.0.113.99", 5000 + number)
        direction = RouteDirection(
            bytes(16),
            pair.chance(16),
            Role.RESPONDER,
            FirstPath.DIRECT_PUNCHED,
            b"",
            [bob.endpoint.encode(), stranger.encode()],
            pair.chance(32),
            3600,
            [],
            0,
        )
        alice.peer.directed(direction, bob.certificate, pair.now)
        pair.run(0.01)
    knocked = {destination.port for _, _, destination in pair.sent if destination.host == "203.0.113.99"}
    assert knocked == set(range(5000, 5000 + PROBED_DIRECTIONS - 1))
    assert alice.peer.paths.current == Destination(bob.endpoint)
    pair.run(2.0)
    assert pair.talk(0)


def test_a_request_by_another_node_or_older_than_the_newest_is_refused() -> None:
    pair = Pair()
    pair.direct_pair(FirstPath.DIRECT)
    pair.run(1.0)
    alice, bob = pair.ends
    [grant] = bob.peer._grants
    for static, stamp, reason in (
        (KeyPair.generate(pair.chance), 2**63, "wrong_static_key"),
        (alice.static, 1, "stale_stamp"),
    ):
        stranger = TunnelInitiator(static, bob.static.public, grant.path_id, grant.path_key, 7, pair.chance)
        session = bob.peer.session
        bob.receive(stranger.request(stamp, supported_suites(True)), alice.endpoint, pair.now)
        assert bob.drops[-1] == reason
        assert bob.peer.session is session
        assert bob.peer._sessions.unconfirmed is None
