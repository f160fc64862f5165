import select
import socket

import pytest

from cyphonic.errors import OperationalError
from cyphonic.udp import Arrival, UdpSocket, check_free
from cyphonic.wire.endpoint import Endpoint

FAMILIES = [("0.0.0.0", "127.0.0.1", "127.0.0.77"), ("::", "::1", "::1")]


def receive(udp: UdpSocket, count: int = 1) -> list[Arrival]:
    arrivals: list[Arrival] = []
    while len(arrivals) < count:
        assert select.select([udp], [], [], 5)[0], "nothing came"
        arrivals.extend(udp.receive())
    return arrivals


@pytest.mark.parametrize(("wildcard", "local", "asked"), FAMILIES)
def test_a_wildcard_socket_answers_from_the_address_that_was_asked(wildcard: str, local: str, asked: str) -> None:
    server, node = UdpSocket(Endpoint(wildcard, 0)), UdpSocket(Endpoint(local, 0))
    assert node.send(b"question", asked, server.endpoint.port)
    arrival = receive(server)[0]
    assert arrival == Arrival(b"question", local, node.endpoint.port, asked)
    assert server.send(b"answer", arrival.host, arrival.port, arrival.local_host)
    assert receive(node)[0] == Arrival(b"answer", asked, server.endpoint.port, local)
    server.close()
    node.close()


def test_a_socket_on_one_address_knows_it_without_asking() -> None:
    server, node = UdpSocket(Endpoint("127.0.0.5", 0)), UdpSocket(Endpoint("127.0.0.1", 0))
    node.send(b"question", *server.endpoint)
    assert receive(server)[0].local_host == "127.0.0.5"
    server.close()
    node.close()


def test_a_burst_comes_in_batches_of_at_most_256() -> None:
    server, node = UdpSocket(Endpoint("0.0.0.0", 0)), UdpSocket(Endpoint("127.0.0.1", 0))
    for _ in range(300):
        node.send(b"x", "127.0.0.1", server.endpoint.port)
    assert len(server.receive()) == 256
    assert len(server.receive()) == 44
    assert server.receive() == []
    server.close()
    node.close()


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.5", "127.0.0.5"), ("::", "::1")])
def test_a_corked_socket_leaves_what_comes_to_those_that_share_its_port_and_still_answers(
    host: str, asked: str
) -> None:
    probe = UdpSocket(Endpoint(host, 0))
    endpoint = probe.endpoint
    probe.close()
    leaving, staying = UdpSocket(endpoint, reuse_port=True), UdpSocket(endpoint, reuse_port=True)
    nodes = [UdpSocket(Endpoint(asked, 0)) for _ in range(20)]
    leaving.cork()
    for node in nodes:
        node.send(b"question", asked, endpoint.port)
    assert len(receive(staying, len(nodes))) == len(nodes)
    assert leaving.send(b"answer", asked, nodes[0].endpoint.port, asked)
    assert receive(nodes[0])[0] == Arrival(b"answer", asked, endpoint.port, asked)
    for udp in (leaving, staying, *nodes):
        udp.close()


def test_a_datagram_that_cannot_be_sent_is_counted_with_its_reason() -> None:
    udp = UdpSocket(Endpoint("127.0.0.1", 0))
    assert not udp.send(bytes(70000), "127.0.0.1", 9)
    assert udp.drops == {"socket_emsgsize": 1}
    udp.close()


def test_a_taken_port_is_named_with_a_way_to_find_its_holder() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        endpoint = Endpoint(*holder.getsockname())
        for attempt in (UdpSocket, check_free):
            with pytest.raises(OperationalError, match=f"{endpoint} is taken") as caught:
                attempt(endpoint)
            assert str(endpoint.port) in caught.value.hint


def test_check_free_also_sees_a_port_that_would_be_shared() -> None:
    udp = UdpSocket(Endpoint("127.0.0.1", 0), reuse_port=True)
    with pytest.raises(OperationalError, match="is taken"):
        check_free(udp.endpoint)
    UdpSocket(udp.endpoint, reuse_port=True).close()
    udp.close()


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(OperationalError, match="not an address of this machine"):
        UdpSocket(Endpoint("192.0.2.250", 0))
