from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

import pytest

from cyphonic.node.loop import Loop
from cyphonic.node.underlay import Underlay, UnderlayMonitor, read_underlay
from cyphonic.wire.endpoint import Endpoint

pytestmark = pytest.mark.root

Isolated = Callable[[Callable[[], None]], None]
V4, V6 = socket.AF_INET, socket.AF_INET6


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def cable(name: str) -> None:
    """A device that is up and has a carrier."""
    ip("link", "add", name, "type", "veth", "peer", f"{name}-far")
    ip("link", "set", f"{name}-far", "up")
    ip("link", "set", name, "up")


def test_a_machine_without_network_has_no_family_and_no_candidate(isolated: Isolated) -> None:
    isolated(lambda: _assert_equal(read_underlay("cyphonic0"), Underlay(frozenset(), (), ())))


def _assert_equal(left: object, right: object) -> None:
    assert left == right


def test_loopback_counts_only_where_it_is_allowed(isolated: Isolated) -> None:
    def body() -> None:
        underlay = read_underlay("cyphonic0", allow_loopback=True)
        assert underlay.families == {V4, V6}
        assert set(underlay.hosts) == {"127.0.0.1", "::1"}

    isolated(body)


def test_addresses_of_the_default_routes_device_come_first(isolated: Isolated) -> None:
    def body() -> None:
        for name, address in (("side", "198.51.100.1/24"), ("main", "192.0.2.1/24")):
            cable(name)
            ip("addr", "add", address, "dev", name)
        ip("route", "add", "default", "via", "192.0.2.254")
        underlay = read_underlay("cyphonic0")
        assert underlay.hosts == ("192.0.2.1", "198.51.100.1")
        assert underlay.families == {V4}
        assert underlay.candidates({V4: 7700, V6: 7701})[0] == Endpoint("192.0.2.1", 7700)
        assert underlay.candidates({V6: 7701}) == []

    isolated(body)


def test_link_local_own_tun_and_downed_devices_are_no_candidates(isolated: Isolated) -> None:
    def body() -> None:
        for name in ("cyphonic0", "main", "idle"):
            cable(name)
        ip("addr", "add", "10.77.0.1/32", "dev", "cyphonic0")
        ip("addr", "add", "2001:db8::1/64", "dev", "main", "nodad")
        ip("addr", "add", "192.0.2.9/24", "dev", "idle")
        ip("link", "set", "idle", "down")
        underlay = read_underlay("cyphonic0")
        assert underlay.hosts == ("2001:db8::1",)
        assert underlay.families == {V6}

    isolated(body)


def test_at_most_eight_candidates(isolated: Isolated) -> None:
    def body() -> None:
        cable("main")
        for last in range(1, 13):
            ip("addr", "add", f"192.0.2.{last}/24", "dev", "main")
        assert len(read_underlay("cyphonic0").hosts) == 8

    isolated(body)


def test_the_monitor_tells_of_an_address_that_comes_and_goes_and_of_nothing_else(isolated: Isolated) -> None:
    def body() -> None:
        cable("main")
        told: list[Underlay] = []
        with Loop() as loop:
            monitor = UnderlayMonitor(loop, "cyphonic0", told.append)
            assert monitor.start().hosts == ()

            def until_told(hosts: tuple[str, ...], gateways: list[str]) -> None:
                deadline = loop.clock() + 10
                while loop.clock() < deadline:
                    loop.turn(longest=1.0)
                    if told and (told[-1].hosts, [way.gateway for way in told[-1].default_routes]) == (
                        hosts,
                        gateways,
                    ):
                        return
                pytest.fail(f"told only {told}")

            ip("addr", "add", "192.0.2.1/24", "dev", "main")
            until_told(("192.0.2.1",), [])
            cable("cyphonic0")  # changes of the own device are not news
            ip("addr", "add", "10.77.0.1/32", "dev", "cyphonic0")
            ip("addr", "del", "192.0.2.1/24", "dev", "main")
            until_told((), [])
            assert all("10.77.0.1" not in underlay.hosts for underlay in told)
            ip("addr", "add", "192.0.2.1/24", "dev", "main")
            ip("route", "add", "default", "via", "192.0.2.254")
            until_told(("192.0.2.1",), ["192.0.2.254"])
            monitor.close()
            monitor.close()

    isolated(body)


def test_a_reading_that_the_kernel_breaks_off_is_repeated() -> None:
    readings: list[Underlay | OSError] = [
        Underlay(frozenset(), (), ()),
        OSError("dump interrupted"),
        Underlay(frozenset({V4}), ("192.0.2.1",), ()),
    ]

    def read(_device: str, *, allow_loopback: bool) -> Underlay:
        reading = readings.pop(0)
        if isinstance(reading, OSError):
            raise reading
        return reading

    told: list[Underlay] = []
    with Loop() as loop:
        monitor = UnderlayMonitor(loop, "cyphonic0", told.append, read=read)
        monitor.start()
        monitor._arrived()
        deadline = loop.clock() + 10
        while not told and loop.clock() < deadline:
            loop.turn(longest=1.0)
        monitor.close()
    assert told == [Underlay(frozenset({V4}), ("192.0.2.1",), ())]
