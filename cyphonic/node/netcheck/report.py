"""``cyphonic netcheck --json``: a contract with a version, as ``status.py`` is."""

from __future__ import annotations

from typing import Literal

from cyphonic.node.status import SCHEMA_VERSION, Document

Udp = Literal["works", "blocked", "unanswered", "no-network", "no-relay"]


class FamilyCheck(Document, frozen=True):
    """One address family."""

    family: Literal["ipv4", "ipv6"]
    works: bool
    """Whether a relay answered over it."""
    why: str = ""
    """Why it does not work."""
    local: str = ""
    """This machine's address towards the relays."""
    observed: str = ""
    """Where a relay sees the socket of this check."""
    nat: bool | None = None
    """Whether the address is translated on the way; None: not known."""
    mapping: str = "unknown"
    """``endpoint-independent``, ``address-dependent`` or ``address-and-port-dependent`` (RFC 4787 §4.1)."""
    mapping_why: str = ""
    filtering: str = "unknown"
    """The same words (RFC 4787 §5), of NAT and firewalls together."""
    filtering_why: str = ""
    hairpin: bool | None = None
    """Whether two hosts behind the NAT reach each other by its address outside; None: no NAT, or not known."""
    mtu: int | None = None
    """Bytes of the longest IP packet, up to 1500, that reaches a relay without fragments."""


class RelayCheck(Document, frozen=True):
    """One endpoint of a relay."""

    endpoint: str
    rtt: float | None = None
    """Seconds, the best of three; None: no answer."""


class PortMappingCheck(Document, frozen=True):
    """What the default gateway offers."""

    gateway: str = ""
    protocols: list[str] = []
    """Of PCP, NAT-PMP and UPnP, those that it speaks."""
    why: str = ""
    mapped: str = ""
    """What the daemon has, if it runs."""


class Netcheck(Document, frozen=True):
    """The whole."""

    udp: Udp
    text: str
    """The result in a sentence."""
    daemon: bool
    """Whether it runs: then it was asked for the relays, else the state file was."""
    families: list[FamilyCheck] = []
    relays: list[RelayCheck] = []
    """Nearest first; those that do not answer last."""
    port_mapping: PortMappingCheck = PortMappingCheck()
    schema_version: int = SCHEMA_VERSION
