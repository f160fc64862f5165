"""Firewalls of hosts and routers, and paths that are cut in one direction, as nftables rule sets."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


class Firewall(Enum):
    """What a host or router lets through from outside; it acts on ``eth0`` and ``wan`` only."""

    NONE = "none"
    STATEFUL = "stateful"
    """Answers to what went out before, nothing else (TCP and UDP, IPv4 and IPv6)."""
    NO_UDP = "no-udp"
    """No UDP, in neither direction."""


HOST_STATEFUL = """
table inet firewall {
  chain incoming {
    type filter hook input priority filter
    iifname "eth0" meta l4proto { tcp, udp } ct state new,invalid drop
  }
}
"""

# On a NAT the NAT itself guards IPv4: what it maps from outside must pass here.
ROUTER_STATEFUL = """
table inet firewall {{
  chain transit {{
    type filter hook forward priority filter
    iifname "wan" {family} meta l4proto {{ tcp, udp }} ct state new,invalid drop
  }}
}}
"""

HOST_NO_UDP = """
table inet firewall {
  chain incoming {
    type filter hook input priority filter
    iifname "eth0" meta l4proto udp drop
  }
  chain outgoing {
    type filter hook output priority filter
    oifname "eth0" meta l4proto udp drop
  }
}
"""

ROUTER_NO_UDP = """
table inet firewall {
  chain transit {
    type filter hook forward priority filter
    meta l4proto udp drop
  }
}
"""

FORGET_FIREWALL = """
table inet firewall
delete table inet firewall
"""


def host_rules(firewall: Firewall) -> str:
    """What ``nft -f -`` takes on a host, in the place of what it took before."""
    rules = {Firewall.STATEFUL: HOST_STATEFUL, Firewall.NO_UDP: HOST_NO_UDP}
    return FORGET_FIREWALL + rules.get(firewall, "")


def router_rules(firewall: Firewall, *, translates: bool) -> str:
    """The same on a router; ``translates``: it is a NAT for IPv4."""
    rules = {
        Firewall.STATEFUL: ROUTER_STATEFUL.format(family="meta nfproto ipv6" if translates else ""),
        Firewall.NO_UDP: ROUTER_NO_UDP,
    }
    return FORGET_FIREWALL + rules.get(firewall, "")


def blocking_rules(ways: Iterable[tuple[Address, Address]]) -> str:
    """What ``nft -f -`` takes to let nothing pass from the first to the second address of each way."""
    drops = [f"{_family(source)} saddr {source} {_family(target)} daddr {target} drop" for source, target in ways]
    chain = "\n    ".join(["type filter hook prerouting priority -320", *drops])
    table = f"table inet block {{\n  chain arrive {{\n    {chain}\n  }}\n}}\n" if drops else ""
    return "table inet block\ndelete table inet block\n" + table


def _family(address: Address) -> str:
    return "ip" if address.version == 4 else "ip6"
