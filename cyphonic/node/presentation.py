"""What ``cyphonic status`` and ``cyphonic ping`` print for people: pure, from documents to tables and lines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from cyphonic.node.status import (
    Addresses,
    CloudStatus,
    DnsStatus,
    FamilyStatus,
    PeerStatus,
    PingSummary,
    Pong,
    RelayStatus,
    Status,
)

_STATE_STYLES = {"joined": "bold green", "refused": "bold red", "cloud-unreachable": "bold red"}
_PATH_STYLES = {"lan": "green", "direct": "green", "relayed": "yellow", "none": "dim"}
_FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6"}
WIDEST = 1000
"""Columns; wider than any table here."""
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB")


def render_status(status: Status, wall: float) -> RenderableType:
    """The whole status.  ``wall``: now, in unix seconds."""
    parts: list[RenderableType] = [_headline(status)]
    if status.state == "cloud-unreachable":
        parts.append(Text("  it keeps trying by itself; tunnels that are up go on, new ones wait", "dim"))
    parts += [Text(f"! {trouble}", "yellow") for trouble in status.troubles]
    parts += [_facts(status, wall), Text()]
    if status.peers:
        parts.append(_Peers(status.peers, wall))
    else:
        parts.append(
            Text("no peers yet: a tunnel starts with the first packet to a node, or a DNS query for it", "dim")
        )
    if status.drops:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(status.drops.items()))
        parts += [Text(), Text(f"drops: {reasons}", "dim")]
    return Group(*parts)


def render_pong(pong: Pong) -> Text:
    """One line of ``ping``; a line with name and address stands before the first."""
    line = Text(f"{pong.name} ({pong.address})\n" if pong.sequence == 1 else "")
    line.append(f"seq={pong.sequence}  ")
    if pong.rtt is None:
        return line.append("no answer", "red")
    line.append(f"{milliseconds(pong.rtt)}  ")
    line.append(pong.path, _PATH_STYLES[pong.path])
    if pong.endpoint:
        line.append(f" through {'relay ' if pong.path == 'relayed' else ''}{pong.endpoint}")
    if pong.why:
        line.append(f"  ({pong.why})", "dim")
    return line


def render_summary(summary: PingSummary, round_trips: Sequence[float]) -> Text:
    """The last line of ``ping``; ``round_trips`` in seconds."""
    lost = 100 * (summary.sent - summary.received) / summary.sent if summary.sent else 0
    text = f"{summary.sent} sent, {summary.received} answered, {lost:.0f} % lost"
    if round_trips:
        mean = sum(round_trips) / len(round_trips)
        figures = " / ".join(milliseconds(value) for value in (min(round_trips), mean, max(round_trips)))
        text += f"; min / mean / max {figures}"
    return Text(text)


def render_joined(addresses: Addresses, dns: DnsStatus) -> Text:
    """The last line of ``up``."""
    line = Text()
    line.append(addresses.name, "bold green")
    line.append(f" is up: {' '.join(filter(None, (addresses.ipv6, addresses.ipv4)))}")
    if dns.mode.startswith("none"):
        line.append(f"\nnames do not resolve here ({dns.mode.removeprefix('none: ')})", "yellow")
    return line


def milliseconds(seconds: float) -> str:
    """``0.42 ms``, ``12.3 ms``, ``130 ms``."""
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def duration(seconds: float) -> str:
    """The two that matter of days, hours, minutes and seconds."""
    whole = max(0, round(seconds))
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(count: int) -> str:
    """``999 B``, ``1.0 kB``, ``12.3 MB``: decimal units."""
    value = float(count)
    for unit in _BYTE_UNITS:
        if value < 1000 or unit == _BYTE_UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _headline(status: Status) -> Text:
    style = _STATE_STYLES.get(status.state, "bold yellow")
    line = Text("● ", style)
    line.append(status.fqdn or status.name or "no name yet", "bold")
    line.append(f"  {status.state}", style)
    if status.cloud.error:
        line.append(f": {status.cloud.error}", "red")
    return line


def _facts(status: Status, wall: float) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "addresses": "  ".join(filter(None, (status.ipv6, status.ipv4))),
        "device": f"{status.device}, MTU {status.mtu}" if status.device else "",
        "DNS": _dns(status.dns),
        "cloud": _cloud(status.cloud, wall),
        **{f"  {_FAMILIES[family.family]}": _family(family) for family in status.cloud.families},
        "port mapping": status.cloud.port_mapping,
        "relays": ", ".join(_relay(relay) for relay in status.cloud.relays),
        "data path": ", ".join((status.datapath.name, *status.datapath.features, *status.datapath.fallbacks)),
    }
    for name, value in facts.items():
        if value:
            table.add_row(f"  {name}", Text(value))
    return table


def _dns(dns: DnsStatus) -> str:
    if dns.mode.startswith("none"):
        return dns.mode
    return f"{dns.mode} asks {dns.address} for {dns.zone}"


def _cloud(cloud: CloudStatus, wall: float) -> str:
    parts = [f"{cloud.region}.{cloud.domain}"] if cloud.region else []
    if cloud.registered_since is not None and cloud.families:
        parts.append(f"registered for {duration(wall - cloud.registered_since)}")
    elif cloud.key_number:
        parts.append("not registered")
    if cloud.key_number:
        renewal = f", renewed in {duration(cloud.renewal - wall)}" if cloud.renewal is not None else ""
        parts.append(f"key {cloud.key_number}{renewal}")
    return "; ".join(parts)


def _relay(relay: RelayStatus) -> str:
    place = relay.endpoints[0] if relay.endpoints else "nowhere"
    return f"{place} {milliseconds(relay.rtt)}" if relay.rtt is not None else place


def _family(family: FamilyStatus) -> str:
    if not family.registered:
        return "not registered"
    return f"seen as {family.observed}, registered at {family.service}"


class _Peers:
    """A row for each peer where the terminal is wide enough, else a block: no address is ever folded."""

    def __init__(self, peers: Sequence[PeerStatus], wall: float) -> None:
        self._peers = peers
        self._wall = wall

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _peer_table(self._peers, self._wall)
        if console.measure(table, options=options.update_width(WIDEST)).maximum <= options.max_width:
            yield table
        else:
            yield from (_peer_block(peer, self._wall) for peer in self._peers)


def _peer_block(peer: PeerStatus, wall: float) -> Table:
    block = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    block.add_column(no_wrap=True)
    block.add_column(overflow="fold")
    path = Text(peer.path, _PATH_STYLES[peer.path])
    path.append(f" through {peer.endpoint}" if peer.endpoint else "", "default")
    path.append(f"  ({peer.why})" if peer.why else "", "dim")
    block.add_row(Text(peer.name.partition(".")[0], "bold"), path)
    block.add_row("", "  ".join(filter(None, (peer.ipv6, peer.ipv4))))
    facts = [f"RTT {milliseconds(peer.rtt)}"] if peer.rtt is not None else []
    facts += [f"handshake {_handshake(peer, wall)}"]
    facts += [f"received {size(peer.rx_bytes)}, sent {size(peer.tx_bytes)}"]
    block.add_row("", ", ".join(facts))
    return block


def _handshake(peer: PeerStatus, wall: float) -> str:
    return f"{duration(wall - peer.last_handshake)} ago" if peer.last_handshake is not None else "never"


def _peer_table(peers: Sequence[PeerStatus], wall: float) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("PEER", "ADDRESSES", "PATH", "THROUGH"):
        table.add_column(title, overflow="fold")
    for title in ("RTT", "HANDSHAKE", "RECEIVED", "SENT"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("WHY", style="dim", overflow="fold")
    for peer in peers:
        table.add_row(
            peer.name.partition(".")[0],
            "\n".join(filter(None, (peer.ipv6, peer.ipv4))),
            Text(peer.path, _PATH_STYLES[peer.path]),
            peer.endpoint or "–",
            milliseconds(peer.rtt) if peer.rtt is not None else "–",
            _handshake(peer, wall),
            size(peer.rx_bytes),
            size(peer.tx_bytes),
            peer.why,
        )
    return table
