from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import dns.message
import dns.rcode
import dns.rrset
import pytest

from cyphonic.errors import OperationalError
from cyphonic.node.loop import Loop
from cyphonic.node.resolver import LOOKUP_PATIENCE, MAX_IN_FLIGHT, Resolver
from cyphonic.node.upstream import take_frame
from cyphonic.node.zone import Zone
from cyphonic.protocol.overlay import LookedUp
from cyphonic.wire.endpoint import Endpoint

LOCAL = Endpoint("127.0.0.1", 0)
ZONE = Zone.of("home.cyphonic.internal", "fd77:1:2::/48", "10.77.0.0/16")
BOB = LookedUp("bob", "bob.home.cyphonic.internal", bytes(16), socket.inet_aton("10.77.0.5"))


@dataclass
class Cloud:
    """Stands for look-ups through the cloud: answers at once, later or never."""

    at_once: LookedUp | None = BOB
    waiting: list[tuple[str | bytes, Callable[[LookedUp], None]]] = field(default_factory=list)

    def __call__(self, target: str | bytes, done: Callable[[LookedUp], None]) -> None:
        if self.at_once is not None:
            done(self.at_once)
        else:
            self.waiting.append((target, done))


@dataclass
class Time:
    """The real clock, which a test may put forward."""

    loop: Loop
    ahead: float = 0.0

    def __post_init__(self) -> None:
        real = self.loop.clock
        self.loop.clock = lambda: real() + self.ahead


class Upstream:
    """A DNS server that answers every question with 192.0.2.80, over UDP and TCP, or is told otherwise."""

    def __init__(self, loop: Loop) -> None:
        self.heard: list[bytes] = []
        self.answer: Callable[[bytes], bytes | None] = self._address
        self._loop = loop
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(LOCAL)
        self.endpoint = Endpoint(*self._udp.getsockname())
        self._tcp = socket.create_server(self.endpoint)
        self._connections: list[socket.socket] = []
        loop.add_reader(self._udp.fileno(), self._udp_readable)
        loop.add_reader(self._tcp.fileno(), self._accept)

    def close(self) -> None:
        for opened in (self._udp, self._tcp, *self._connections):
            self._loop.remove(opened.fileno())
            opened.close()

    @staticmethod
    def _address(wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.80"))
        return response.to_wire()

    def _udp_readable(self) -> None:
        wire, source = self._udp.recvfrom(65535)
        self.heard.append(wire)
        answer = self.answer(wire)
        if answer is not None:
            self._udp.sendto(answer, source)

    def _accept(self) -> None:
        connection, _ = self._tcp.accept()
        self._connections.append(connection)
        received = bytearray()

        def readable() -> None:
            received.extend(connection.recv(65535))
            if (wire := take_frame(received)) is not None:
                self.heard.append(wire)
                answer = self.answer(wire)
                if answer is None:
                    self._loop.remove(connection.fileno())
                    connection.close()
                else:
                    connection.send(len(answer).to_bytes(2, "big") + answer)

        self._loop.add_reader(connection.fileno(), readable)


@dataclass
class Bench:
    loop: Loop
    resolver: Resolver
    cloud: Cloud
    upstream: Upstream
    time: Time

    def turn_until(self, condition: Callable[[], bool]) -> None:
        deadline = self.loop.clock() + 30
        while not condition():
            assert self.loop.clock() < deadline, "nothing happened"
            self.loop.turn(longest=1.0)

    def udp(self, wire: bytes) -> bytes:
        with self.udp_client() as client:
            client.send(wire)
            return self.receive(client)

    def udp_client(self) -> socket.socket:
        assert self.resolver.address is not None
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(self.resolver.address)
        return client

    def receive(self, client: socket.socket) -> bytes:
        answers: list[bytes] = []
        client.setblocking(False)
        self.loop.add_reader(client.fileno(), lambda: answers.append(client.recv(65535)))
        self.turn_until(lambda: bool(answers))
        self.loop.remove(client.fileno())
        return answers[0]

    def tcp_client(self) -> socket.socket:
        assert self.resolver.address is not None
        return socket.create_connection(self.resolver.address)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Loop() as loop, contextlib.ExitStack() as stack:
        time = Time(loop)
        upstream = Upstream(loop)
        stack.callback(upstream.close)
        cloud = Cloud()
        resolver = Resolver(loop, ZONE, cloud, [upstream.endpoint])
        resolver.start(LOCAL)
        stack.callback(resolver.close)
        yield Bench(loop, resolver, cloud, upstream, time)


def query(name: str, kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind).to_wire()


def frame(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + wire


def test_a_name_of_the_zone_is_answered_through_the_cloud(bench: Bench) -> None:
    response = dns.message.from_wire(bench.udp(query("bob.home.cyphonic.internal")))
    assert response.answer[0][0].to_text() == "10.77.0.5"
    assert not bench.upstream.heard


def test_an_answer_may_come_later_and_repeated_questions_get_one(bench: Bench) -> None:
    bench.cloud.at_once = None
    wire = query("bob.home.cyphonic.internal")
    with bench.udp_client() as client:
        client.send(wire)
        client.send(wire)
        bench.turn_until(lambda: bench.resolver.counts["repeated"] == 1)
        assert len(bench.cloud.waiting) == 1
        bench.cloud.waiting[0][1](BOB)
        assert dns.message.from_wire(bench.receive(client)).answer
        with pytest.raises(BlockingIOError):
            client.recv(65535)


def test_a_cloud_that_never_answers_ends_in_a_server_failure(bench: Bench) -> None:
    bench.cloud.at_once = None
    with bench.udp_client() as client:
        client.send(query("bob.home.cyphonic.internal"))
        bench.turn_until(lambda: bool(bench.cloud.waiting))
        bench.time.ahead += LOOKUP_PATIENCE
        assert dns.message.from_wire(bench.receive(client)).rcode() == dns.rcode.SERVFAIL
        bench.cloud.waiting[0][1](BOB)  # too late, and harmless


def test_any_other_question_goes_upstream_and_back_byte_for_byte(bench: Bench) -> None:
    wire = dns.message.make_query("example.com", "A", use_edns=0, payload=1400).to_wire() + b"\0trailing"
    bench.upstream.answer = lambda heard: heard[:2] + b"\x81\x80" + b"\xde\xad" * 10
    assert bench.udp(wire) == wire[:2] + b"\x81\x80" + b"\xde\xad" * 10
    assert bench.upstream.heard == [wire]


def test_the_next_upstream_is_asked_when_the_first_refuses_or_is_silent(bench: Bench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, socket.socket() as closed:
        silent.bind(LOCAL)
        closed.bind(LOCAL)  # TCP only: nobody listens on this UDP port
        bench.resolver.upstreams = [
            Endpoint(*closed.getsockname()),
            Endpoint(*silent.getsockname()),
            bench.upstream.endpoint,
        ]
        with bench.udp_client() as client:
            client.send(query("example.com"))
            asked: list[bytes] = []
            bench.loop.add_reader(silent.fileno(), lambda: asked.append(silent.recv(65535)))
            bench.turn_until(lambda: bool(asked))
            bench.loop.remove(silent.fileno())
            bench.time.ahead += 3.0
            assert dns.message.from_wire(bench.receive(client)).answer


def test_without_an_upstream_that_answers_it_is_a_server_failure(bench: Bench) -> None:
    bench.resolver.upstreams = []
    assert dns.message.from_wire(bench.udp(query("example.com"))).rcode() == dns.rcode.SERVFAIL


def test_an_answer_under_another_number_is_not_passed_on(bench: Bench) -> None:
    def forged_first(wire: bytes) -> bytes:
        bench.upstream.answer = Upstream._address
        return bytes([wire[0] ^ 1, wire[1]]) + Upstream._address(wire)[2:]

    bench.upstream.answer = forged_first
    wire = query("example.com")
    with bench.udp_client() as client:
        client.send(wire)
        bench.turn_until(lambda: len(bench.upstream.heard) == 1)
        bench.loop.turn(longest=0.0)
        bench.time.ahead += 3.0  # the forgery was ignored: the question is put again
        assert bench.receive(client)[:2] == wire[:2]


def test_tcp_serves_several_questions_on_one_connection_and_passes_on_over_tcp(bench: Bench) -> None:
    big = b"\x81\x80" + bytes(8) + b"x" * 40_000
    bench.upstream.answer = lambda wire: wire[:2] + big
    ours, other = query("bob.home.cyphonic.internal"), query("example.com", "TXT")
    received = bytearray()
    answers: list[bytes] = []

    def readable() -> None:
        received.extend(client.recv(65535))
        while (answer := take_frame(received)) is not None:
            answers.append(answer)

    with bench.tcp_client() as client:
        client.send((frame(ours) + frame(other))[:5])
        bench.loop.add_reader(client.fileno(), readable)
        bench.loop.turn(longest=0.1)
        client.send((frame(ours) + frame(other))[5:])
        bench.turn_until(lambda: len(answers) == 2)
        bench.loop.remove(client.fileno())
    assert dns.message.from_wire(answers[0]).answer
    assert answers[1] == other[:2] + big


def test_a_tcp_upstream_that_hangs_up_ends_in_a_server_failure(bench: Bench) -> None:
    bench.upstream.answer = lambda _: None
    with bench.tcp_client() as client:
        client.send(frame(query("example.com")))
        answer = bench.receive(client)
    assert dns.message.from_wire(answer[2:]).rcode() == dns.rcode.SERVFAIL


def test_what_is_in_flight_is_bounded_and_ends_with_the_client(bench: Bench) -> None:
    bench.cloud.at_once = None
    answers: list[bytes] = []
    for number in range(MAX_IN_FLIGHT + 1):
        bench.resolver.handle(query("bob.home.cyphonic.internal"), number, answers.append)
    assert [dns.message.from_wire(answer).rcode() for answer in answers] == [dns.rcode.SERVFAIL]
    for _, done in bench.cloud.waiting:
        done(BOB)
    assert len(answers) == MAX_IN_FLIGHT + 1

    with bench.tcp_client() as client:
        client.send(frame(query("bob.home.cyphonic.internal")))
        bench.turn_until(lambda: len(bench.cloud.waiting) == MAX_IN_FLIGHT + 1)
    bench.turn_until(lambda: not bench.resolver._in_flight)
    bench.cloud.waiting[-1][1](BOB)


def test_an_idle_tcp_client_is_hung_up_on(bench: Bench) -> None:
    with bench.tcp_client() as client:
        bench.turn_until(lambda: len(bench.resolver._clients) == 1)
        bench.time.ahead += 11.0
        bench.turn_until(lambda: not bench.resolver._clients)
        assert client.recv(1) == b""


def test_garbage_does_no_harm(bench: Bench) -> None:
    bench.upstream.answer = lambda _: None
    with bench.udp_client() as client:
        for garbage in (b"", b"x", bytes(11), bytes(12), b"\xff" * 500):
            client.send(garbage)
        assert dns.message.from_wire(bench.udp(query("bob.home.cyphonic.internal"))).answer


def test_a_port_that_is_taken_is_an_error_that_says_how_to_choose_another(bench: Bench) -> None:
    assert bench.resolver.address is not None
    second = Resolver(bench.loop, ZONE, bench.cloud)
    with pytest.raises(OperationalError, match="in use") as caught:
        second.start(bench.resolver.address)
    assert "dns_address" in caught.value.hint
    second.close()
