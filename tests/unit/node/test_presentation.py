from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console, RenderableType

from cyphonic.node.presentation import (
    duration,
    milliseconds,
    render_joined,
    render_pong,
    render_status,
    render_summary,
    size,
)
from cyphonic.node.status import (
    Addresses,
    CloudStatus,
    DatapathStatus,
    DnsStatus,
    FamilyStatus,
    PeerStatus,
    PingSummary,
    Pong,
    Status,
)

STATUS = Status(
    state="joined",
    name="alice",
    fqdn="alice.home.cyphonic.internal",
    ipv6="fd77:1:2::5",
    ipv4="10.77.0.5",
    device="cyphonic0",
    mtu=1400,
    dns=DnsStatus("resolv.conf", "127.53.53.53:53", "home.cyphonic.internal"),
    cloud=CloudStatus(
        region="home",
        domain="cyphonic.internal",
        families=[FamilyStatus("ipv4", True, "203.0.113.9:40000", "192.0.2.1:7702")],
        registered_since=1000.0,
        key_number=3,
        renewal=41_000.0,
    ),
    datapath=DatapathStatus("python", 1400, fallbacks=["no segmentation offload"]),
    peers=[
        PeerStatus(
            name="bob.home.cyphonic.internal",
            ipv6="fd77:1:2::9",
            path="relayed",
            endpoint="192.0.2.3:7703",
            relay="192.0.2.3:7703",
            why="both behind NAPT",
            last_handshake=1090.0,
            rtt=0.0123,
            rx_bytes=12_345_678,
        )
    ],
    drops={"bad_seal": 2},
)


def shown(rendered: RenderableType, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(rendered)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_status_says_who_where_and_through_what() -> None:
    text = shown(render_status(STATUS, wall=1100.0))
    for expected in (
        "alice.home.cyphonic.internal  joined",
        "fd77:1:2::5  10.77.0.5",
        "resolv.conf asks 127.53.53.53:53 for home.cyphonic.internal",
        "registered for 1 min 40 s; key 3, renewed in 11 h 5 min",
        "seen as 203.0.113.9:40000",
        "no segmentation offload",
        "bad_seal 2",
    ):
        assert expected in text
    row = next(line for line in text.splitlines() if line.startswith("bob"))
    assert row.split()[:4] == ["bob", "fd77:1:2::9", "relayed", "192.0.2.3:7703"]
    for expected in ("12.3 ms", "10 s ago", "12.3 MB", "both behind NAPT"):
        assert expected in row


def test_a_node_whose_registrations_all_went_unanswered_is_not_called_registered() -> None:
    cloud = msgspec.structs.replace(STATUS.cloud, families=[], error="the NMS does not answer")
    text = shown(render_status(msgspec.structs.replace(STATUS, cloud=cloud), wall=1100.0))
    assert "not registered; key 3" in text


def test_status_of_a_daemon_that_just_started_is_short() -> None:
    text = shown(render_status(Status(state="starting"), wall=0.0))
    assert "starting" in text
    assert "no peers yet" in text


def test_what_is_wrong_on_this_machine_stands_below_the_headline_as_long_as_it_lasts() -> None:
    trouble = "/var/lib/cyphonic/node.json cannot be written: No space left on device: make room"
    text = shown(render_status(msgspec.structs.replace(STATUS, troubles=[trouble]), wall=1100.0), width=100)
    assert text.splitlines()[1].startswith("! /var/lib/cyphonic/node.json cannot be written: No space left")


def test_a_node_that_is_not_registered_does_not_say_since_when_it_is() -> None:
    away = CloudStatus(region="home", domain="cyphonic.internal", key_number=3, error="no answer by UDP")
    text = shown(render_status(Status(state="cloud-unreachable", cloud=away), wall=1100.0))
    assert "not registered; key 3" in text
    assert "keeps trying by itself; tunnels that are up go on" in text
    assert "registered for" not in text


def test_names_with_brackets_are_text_and_not_markup() -> None:
    status = Status(state="cloud-unreachable", cloud=CloudStatus(error="[red]AS[/red] does not answer"))
    assert "[red]AS[/red]" in shown(render_status(status, wall=0.0))


def test_a_narrow_terminal_gets_a_block_for_each_peer_and_folds_no_address() -> None:
    lines = shown(render_status(STATUS, wall=1100.0), width=80).splitlines()
    block = lines.index("bob  relayed through 192.0.2.3:7703  (both behind NAPT)".ljust(len(lines[-5])))
    assert lines[block + 1].strip() == "fd77:1:2::9"
    assert lines[block + 2].strip() == "RTT 12.3 ms, handshake 10 s ago, received 12.3 MB, sent 0 B"


def test_a_ping_says_direct_or_relayed_and_through_what() -> None:
    direct = Pong(1, "bob", "fd77::9", 0.00123, "direct", "198.51.100.2:7700", "", "punched")
    assert shown(render_pong(direct)) == (
        "bob (fd77::9)\nseq=1  1.23 ms  direct through 198.51.100.2:7700  (punched)\n"
    )
    relayed = Pong(2, "bob", "fd77::9", 0.1, "relayed", "192.0.2.3:7703", "192.0.2.3:7703")
    assert "relayed through relay 192.0.2.3:7703" in shown(render_pong(relayed))
    assert "no answer" in shown(render_pong(Pong(3, "bob")))


def test_the_summary_counts_and_averages() -> None:
    text = shown(render_summary(PingSummary("bob", 4, 3), [0.001, 0.002, 0.003]))
    assert text == "4 sent, 3 answered, 25 % lost; min / mean / max 1.00 ms / 2.00 ms / 3.00 ms\n"
    assert "100 % lost" in shown(render_summary(PingSummary("bob", 4, 0), []))


def test_a_node_without_dns_is_told_so_when_it_comes_up() -> None:
    text = shown(render_joined(Addresses("alice", "fd77::5"), DnsStatus("none: systemd-resolved is not in use")))
    assert "names do not resolve here (systemd-resolved is not in use)" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min 59 s"), (7260, "2 h 1 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (10**9, "1.0 GB"), (5 * 10**16, "50000.0 TB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_milliseconds() -> None:
    assert [milliseconds(value) for value in (0.00042, 0.0123, 0.13)] == ["0.42 ms", "12.3 ms", "130 ms"]
