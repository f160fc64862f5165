"""The documents that the daemon gives to the command line (and, as JSON, to anyone): a contract with a version.

Fields are added, never renamed or removed, under one schema version.  Times of day are unix seconds, durations are
seconds.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from cyphonic.errors import OperationalError

SCHEMA_VERSION = 1

State = Literal["starting", "logging-in", "registering", "joined", "cloud-unreachable", "refused", "leaving"]
PathName = Literal["direct", "lan", "relayed", "none"]


class Document(msgspec.Struct, frozen=True, omit_defaults=False):
    """Base of every document."""


DocumentT = TypeVar("DocumentT", bound=Document)


def read_document(result: Any, kind: type[DocumentT]) -> DocumentT:
    """What the daemon sent.  Raise OperationalError when it is of another release."""
    try:
        return msgspec.convert(result, kind)
    except msgspec.ValidationError as error:
        raise OperationalError(
            f"the daemon speaks another version: {error}", "restart it: cyphonic down, cyphonic up"
        ) from None


class DnsStatus(Document, frozen=True):
    """How names of the overlay get resolved here."""

    mode: str
    """``systemd-resolved``, ``resolv.conf`` or ``none: <reason>``."""
    address: str = ""
    """Where the node's own DNS server listens, ``ip:port``; empty: nowhere."""
    zone: str = ""
    upstreams: list[str] = []


class FamilyStatus(Document, frozen=True):
    """The registration of one address family."""

    family: Literal["ipv4", "ipv6"]
    registered: bool
    observed: str = ""
    """Own endpoint as the cloud sees it."""
    service: str = ""
    """The NMS endpoint where it is registered."""


class RelayStatus(Document, frozen=True):
    """A relay that the cloud has named."""

    public_key: str
    """Base64."""
    endpoints: list[str] = []
    rtt: float | None = None
    """Seconds; None: not measured, or no answer."""


class CloudStatus(Document, frozen=True):
    """What this node knows of its cloud and how it stands with it."""

    region: str = ""
    domain: str = ""
    as_endpoints: list[str] = []
    nms_endpoints: list[str] = []
    families: list[FamilyStatus] = []
    registered_since: float | None = None
    key_number: int = 0
    renewal: float | None = None
    """When the common key will be renewed."""
    error: str = ""
    """What is wrong now, if anything."""
    port_mapping: str = ""
    """What the gateway maps to this node, and by which protocol; or why it does not."""
    relays: list[RelayStatus] = []
    """As the cloud names them."""


class DatapathStatus(Document, frozen=True):
    """How packets travel."""

    name: str = "python"
    mtu: int = 0
    features: list[str] = []
    """Kernel offloads in use."""
    fallbacks: list[str] = []
    """What this kernel or device does not offer, and what is done instead."""


class PeerStatus(Document, frozen=True):
    """One peer."""

    name: str
    """FQDN."""
    ipv6: str = ""
    ipv4: str = ""
    path: PathName = "none"
    endpoint: str = ""
    """Where datagrams for the peer go; on a relayed path, the relay."""
    relay: str = ""
    why: str = ""
    """Why the path is what it is."""
    settled: bool = False
    """No better path is being tried any more."""
    first_path: str = ""
    """What the cloud had said to try first."""
    last_handshake: float | None = None
    """Unix seconds."""
    rtt: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    suite: str = ""


class Status(Document, frozen=True):
    """``cyphonic status --json``."""

    state: State
    name: str = ""
    fqdn: str = ""
    ipv6: str = ""
    ipv4: str = ""
    device: str = ""
    mtu: int = 0
    dns: DnsStatus = DnsStatus("none: not set up yet")
    cloud: CloudStatus = CloudStatus()
    datapath: DatapathStatus = DatapathStatus()
    peers: list[PeerStatus] = []
    drops: dict[str, int] = {}
    """Datagrams and packets deliberately not processed, by reason."""
    software: str = ""
    pid: int = 0
    since: float | None = None
    """When the daemon started."""
    troubles: list[str] = []
    """What is wrong on this machine though the node goes on, and what to do."""
    schema_version: int = SCHEMA_VERSION


class Pong(Document, frozen=True):
    """One line of ``cyphonic ping --json``: an answer, or the lack of one."""

    sequence: int
    name: str = ""
    address: str = ""
    rtt: float | None = None
    """None: no answer in time."""
    path: PathName = "none"
    endpoint: str = ""
    relay: str = ""
    why: str = ""
    schema_version: int = SCHEMA_VERSION


class PingSummary(Document, frozen=True):
    """The last line of ``cyphonic ping --json``."""

    name: str
    sent: int
    received: int
    schema_version: int = SCHEMA_VERSION


class Addresses(Document, frozen=True):
    """``cyphonic ip [NAME] --json``."""

    name: str
    ipv6: str = ""
    ipv4: str = ""
    schema_version: int = SCHEMA_VERSION


class Progress(Document, frozen=True):
    """One line of ``wait``: what the daemon is doing now."""

    state: State
    text: str = ""
    schema_version: int = SCHEMA_VERSION
