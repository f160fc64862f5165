"""``[node]`` in node.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from cyphonic.configuration import check_sections, choose_file, load
from cyphonic.protocol.limits import TUN_MTU
from cyphonic.wire.endpoint import Endpoint

NODE_FILE = Path("/etc/cyphonic/node.toml")
SECTION = "node"

DnsMode = Literal["auto", "systemd-resolved", "resolv.conf", "off"]
LogLevel = Literal["debug", "info", "warning", "error"]

DEVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
"""The kernel takes more characters; these need no quoting anywhere."""
MIN_MTU = 1280
"""Bytes: what IPv6 asks of every link (RFC 8200 §5)."""
MAX_MTU = 65535


class NodeConfig(msgspec.Struct, frozen=True):
    """One node.  Several on one machine live in network namespaces of their own, with directories of their own."""

    device: str = "cyphonic0"
    """Name of the TUN device."""
    mtu: int = TUN_MTU
    """Bytes of an inner packet."""
    state_dir: Path = Path("/var/lib/cyphonic")
    """Identity; what a kill -9 left to put right."""
    run_dir: Path = Path("/run/cyphonic")
    """The control socket."""
    dns_address: Endpoint = Endpoint("127.53.53.53", 53)
    """Where the node's own DNS server listens.  ``resolv.conf`` knows no other port than 53."""
    dns_mode: DnsMode = "auto"
    """``auto``: systemd-resolved where it runs, else resolv.conf; ``off``: no DNS server, nothing changed."""
    listen_port: int = 0
    """UDP port of tunnels; 0: any."""
    port_mapping: bool = True
    """Ask the gateway for a port by which peers reach this node: PCP, NAT-PMP and, where installed, UPnP."""
    log_level: LogLevel = "info"
    group: str = ""
    """Whose members may use the control socket beside root; empty: nobody."""
    allow_loopback: bool = False
    """Take loopback for underlay: cloud and node on a single machine, for trials and tests."""

    def __post_init__(self) -> None:
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise ValueError(f"mtu: {self.mtu} is not between {MIN_MTU} and {MAX_MTU}")
        if DEVICE_NAME.fullmatch(self.device) is None:
            raise ValueError(f"device: {self.device!r} is not an interface name: 1 to 15 letters and digits")
        if not 0 <= self.listen_port < 65536:
            raise ValueError(f"listen_port: {self.listen_port} is not a port")

    @property
    def log_file(self) -> Path:
        """Of a daemon that ``cyphonic up`` has detached."""
        return self.state_dir / "node.log"


def load_node(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> NodeConfig:
    """The configuration of ``--config FILE`` (or CYPHONIC_CONFIG, or /etc/cyphonic/node.toml, or the defaults).

    Raise ConfigurationError that names the file, the key and the reason.
    """
    chosen = choose_file(file, environ, NODE_FILE)
    if chosen is not None:
        check_sections(chosen, [SECTION])
    return load(NodeConfig, section=SECTION, file=chosen, environ=environ, flags=flags)
