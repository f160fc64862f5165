"""What ``cyphonic netcheck`` prints for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cyphonic.node.netcheck.behaviour import Dependence
from cyphonic.node.netcheck.report import FamilyCheck, Netcheck, PortMappingCheck
from cyphonic.node.presentation import milliseconds

_NAMES = {
    (Dependence.NONE, Dependence.NONE): "full cone",
    (Dependence.NONE, Dependence.ADDRESS): "address-restricted",
    (Dependence.NONE, Dependence.ADDRESS_AND_PORT): "port-restricted",
    (Dependence.ADDRESS_AND_PORT, Dependence.ADDRESS_AND_PORT): "symmetric",
}
"""As RFC 3489 called them, and people still do."""
_YES = {True: "yes", False: "no", None: "unknown"}


def render_netcheck(found: Netcheck) -> RenderableType:
    """The whole."""
    style = "bold green" if found.udp == "works" else "bold red"
    headline = Text("● ", style)
    headline.append(found.text, style if found.udp != "works" else "bold")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for family in found.families:
        for title, text in _family(family):
            table.add_row(f"  {title}", Text(text))
    table.add_row("  port mapping", Text(_port_mapping(found.port_mapping)))
    for number, relay in enumerate(found.relays):
        rtt = milliseconds(relay.rtt) if relay.rtt is not None else "no answer"
        table.add_row("  relays" if not number else "", Text(f"{relay.endpoint}  {rtt}"))
    asked = "the running daemon" if found.daemon else "the state file, since no daemon runs"
    return Group(headline, table, Text(f"  relays are known from {asked}", "dim"))


def nat_name(family: FamilyCheck) -> str:
    """What the NAT used to be called; empty for kinds that had no name."""
    return _NAMES.get((Dependence(family.mapping), Dependence(family.filtering)), "") if family.nat else ""


def _family(family: FamilyCheck) -> Iterator[tuple[str, str]]:
    title = {"ipv4": "IPv4", "ipv6": "IPv6"}[family.family]
    if not family.works:
        yield title, family.why
        return
    yield title, f"works: {family.local}, seen as {family.observed}"
    name = nat_name(family)
    yield "  NAT", f"yes{f': {name}' if name else ''}" if family.nat else _YES[family.nat]
    if family.nat:
        yield "  mapping", _with(family.mapping, family.mapping_why)
    yield "  filtering", _with(family.filtering, family.filtering_why)
    if family.nat:
        yield "  hairpin", _YES[family.hairpin]
    yield "  path MTU", f"{family.mtu} bytes" if family.mtu is not None else "less than 1248 bytes"


def _with(kind: str, why: str) -> str:
    return f"{kind} ({why})" if why else kind


def _port_mapping(check: PortMappingCheck) -> str:
    spoken = ", ".join(check.protocols) or f"none: {check.why}"
    return f"{spoken}; {check.mapped}" if check.mapped else spoken
