from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

import pytest

from cyphonic.errors import OperationalError
from cyphonic.node.interface import Interface
from cyphonic.node.loop import Loop
from cyphonic.node.tun import Tun

pytestmark = pytest.mark.root

Isolated = Callable[[Callable[[], None]], None]

IPV6 = socket.inet_pton(socket.AF_INET6, "fd77:1:2::5")
IPV4 = socket.inet_aton("10.77.0.5")
PREFIX, POOL = "fd77:1:2::/48", "10.77.0.0/16"


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def read_until(tun: Tun, wanted: Callable[[bytes], bool]) -> bytes:
    """The first packet that is wanted; the kernel may send others on its own account."""
    found: list[bytes] = []

    def readable() -> None:
        packet = tun.read()
        if packet is not None and wanted(packet):
            found.append(packet)
            loop.stop()

    with Loop() as loop:
        loop.add_reader(tun.fileno(), readable)
        loop.call_later(10, loop.stop)
        loop.run()
    assert found, "the packet did not come within 10 s"
    return found[0]


def is_udp_v6_to_port_9(packet: bytes) -> bool:
    return packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_UDP and packet[42:44] == b"\0\x09"


def test_packets_leave_and_arrive_through_the_configured_device(isolated: Isolated) -> None:
    def body() -> None:
        tun = Tun.open("cyphonic0")
        Interface("cyphonic0").configure(ipv6=IPV6, ipv4=IPV4, prefix=PREFIX, pool=POOL, mtu=1400)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.settimeout(10)
            sender.sendto(b"hello", ("fd77:1:2::9", 9))
            packet = read_until(tun, is_udp_v6_to_port_9)
            assert packet[8:24] == IPV6
            assert packet[48:] == b"hello"
            back = packet[:8] + packet[24:40] + packet[8:24] + packet[42:44] + packet[40:42] + packet[44:]
            assert tun.write(back)  # the checksum is the same with both ends swapped
            assert sender.recvfrom(100)[0] == b"hello"
        tun.close()

    isolated(body)


def test_addresses_routes_and_mtu_are_as_asked_and_go_with_the_device(isolated: Isolated) -> None:
    def body() -> None:
        tun = Tun.open("cyphonic0")
        Interface("cyphonic0").configure(ipv6=IPV6, ipv4=IPV4, prefix=PREFIX, pool=POOL, mtu=1390)
        shown = ip("addr", "show", "cyphonic0")
        assert "mtu 1390" in shown
        assert "inet 10.77.0.5/32" in shown
        assert "inet6 fd77:1:2::5/128" in shown
        assert "tentative" not in shown
        assert "fe80" not in shown
        assert "src 10.77.0.5" in ip("route", "get", "10.77.200.1")
        assert "dev cyphonic0" in ip("-6", "route", "get", "fd77:1:2:ffff::1")
        tun.close()
        assert "cyphonic0" not in ip("link")
        assert "10.77" not in ip("route", "show", "table", "all")

    isolated(body)


def test_configuring_again_replaces_what_is_no_longer_named(isolated: Isolated) -> None:
    def body() -> None:
        tun = Tun.open("cyphonic0")
        interface = Interface("cyphonic0")
        for _ in range(2):
            interface.configure(ipv6=IPV6, ipv4=IPV4, prefix=PREFIX, pool=POOL, mtu=1400)
        interface.configure(ipv6=IPV6, ipv4=socket.inet_aton("10.77.0.6"), prefix=PREFIX, pool=POOL, mtu=1400)
        shown = ip("addr", "show", "cyphonic0")
        assert "10.77.0.6/32" in shown
        assert "10.77.0.5" not in shown
        assert "src 10.77.0.6" in ip("route", "get", "10.77.200.1")
        interface.remove()
        assert "10.77" not in ip("addr")
        tun.close()
        interface.remove()

    isolated(body)


def test_a_node_without_ipv4_address_gets_no_ipv4_route(isolated: Isolated) -> None:
    def body() -> None:
        tun = Tun.open("cyphonic0")
        Interface("cyphonic0").configure(ipv6=IPV6, ipv4=b"", prefix=PREFIX, pool=POOL, mtu=1400)
        assert "10.77" not in ip("route", "show", "table", "all")
        tun.close()

    isolated(body)


def test_a_pool_that_this_machine_routes_elsewhere_is_an_error_that_names_it(isolated: Isolated) -> None:
    def body() -> None:
        ip("route", "add", POOL, "dev", "lo")
        tun = Tun.open("cyphonic0")
        with pytest.raises(OperationalError, match=r"already routes 10\.77\.0\.0/16"):
            Interface("cyphonic0").configure(ipv6=IPV6, ipv4=IPV4, prefix=PREFIX, pool=POOL, mtu=1400)
        tun.close()

    isolated(body)


def test_a_device_of_another_program_or_kind_is_refused_with_advice(isolated: Isolated) -> None:
    def body() -> None:
        first = Tun.open("cyphonic0")
        with pytest.raises(OperationalError, match="in use"):
            Tun.open("cyphonic0")
        first.close()
        with pytest.raises(OperationalError, match="no TUN device"):
            Tun.open("lo")
        with pytest.raises(OperationalError, match="not an interface name"):
            Tun.open("a-name-that-is-far-too-long")

    isolated(body)


def test_reading_an_idle_device_and_writing_nonsense_or_to_a_device_that_is_down_do_no_harm(
    isolated: Isolated,
) -> None:
    def body() -> None:
        tun = Tun.open("cyphonic0")
        assert tun.read() is None
        assert not tun.write(b"\x45" + bytes(39))
        Interface("cyphonic0").configure(ipv6=IPV6, ipv4=IPV4, prefix=PREFIX, pool=POOL, mtu=1400)
        assert not tun.write(b"\x00nonsense")
        tun.close()
        tun.close()

    isolated(body)


def test_a_missing_device_file_and_a_missing_privilege_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyphonic.node.tun.CLONE_DEVICE", "/dev/net/absent")
    with pytest.raises(OperationalError, match="does not exist") as caught:
        Tun.open("cyphonic0")
    assert "modprobe tun" in caught.value.hint
