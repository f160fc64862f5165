"""NAT behaviours (RFC 4787) as nftables rule sets.

``wan`` is the router's interface towards the internet, ``lan0``, ``lan1`` … those towards its own networks.

=================== =============================== ==========================================
kind                mapping                         lets in
=================== =============================== ==========================================
full-cone           same port to every destination  anyone
address-restricted  same port to every destination  contacted addresses, from any port
port-restricted     same port to every destination  contacted address and port only
symmetric           a new port per destination      contacted address and port only
=================== =============================== ==========================================
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address
from string import Template


class NatKind(Enum):
    """What a router does to IPv4; IPv6 is never translated."""

    NONE = "none"
    FULL_CONE = "full-cone"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"

    @property
    def hairpins(self) -> bool:
        """Whether two hosts inside reach each other by the address that they have outside."""
        return self in (NatKind.NONE, NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED)


def strictest(kinds: Iterable[NatKind]) -> NatKind:
    """What several NATs in a row are together."""
    order = list(NatKind)
    return max(kinds, key=order.index, default=NatKind.NONE)


REPLACED = """
table inet guard
delete table inet guard
table ip nat
delete table ip nat
"""

# Without these two chains Linux looks more open than the NAT it plays, and less: an unsolicited datagram would
# reach the router itself, and the conntrack entry that this leaves takes the port that a hole punch needs next.
GUARD = """
table inet guard {
  chain incoming {
    type filter hook input priority filter
    iifname "wan" meta nfproto ipv4 ct state new drop
  }
  chain transit {
    type filter hook forward priority filter
    iifname "wan" meta nfproto ipv4 ct status dnat accept
    iifname "wan" meta nfproto ipv4 ct state new,invalid drop
  }
}
"""

MASQUERADE = """
table ip nat {
  chain leave {
    type nat hook postrouting priority srcnat
    oifname "wan" masquerade $options
  }
}
"""

# ``mappings`` remembers who inside owns an outside port, so that datagrams from strangers find the way in.
# Only who speaks first owns a port: the original direction of an answer to a stranger begins at the stranger.
# The rule on ct status is the hairpin: inside to inside by the outside address.
CONE = """
table ip nat {
  map mappings {
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 120s
  }
  set contacted {
    type ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 120s
  }
  chain arrive {
    type nat hook prerouting priority dstnat
    ip daddr $outside meta l4proto udp $condition dnat ip to udp dport map @mappings
  }
  chain leave {
    type nat hook postrouting priority srcnat
    oifname "wan" masquerade
    iifname "lan*" oifname "lan*" ct status dnat snat to $outside
  }
  chain remember {
    type filter hook postrouting priority 150
    oifname "wan" meta l4proto udp ct direction original update @mappings $owner
    oifname "wan" meta l4proto udp update @contacted { ip daddr . udp sport }
  }
}
"""

FORGET_MAPPINGS = """
flush map ip nat mappings
flush set ip nat contacted
"""

OWNER = "{ udp sport : ct original ip saddr . ct original proto-src }"

BEHAVIOURS = {
    NatKind.FULL_CONE: (CONE, {"condition": "", "owner": OWNER}),
    NatKind.ADDRESS_RESTRICTED: (CONE, {"condition": "ip saddr . udp dport @contacted", "owner": OWNER}),
    NatKind.PORT_RESTRICTED: (MASQUERADE, {"options": ""}),
    NatKind.SYMMETRIC: (MASQUERADE, {"options": "fully-random"}),
}


def rules(kind: NatKind, outside: IPv4Address) -> str:
    """What ``nft -f -`` takes to make a router of this kind, whose address on ``wan`` is ``outside``.

    It takes the place of what was there.
    """
    if kind not in BEHAVIOURS:
        return ""
    template, values = BEHAVIOURS[kind]
    return REPLACED + GUARD + Template(template).substitute(values, outside=outside)


def forgetting_rules(kind: NatKind) -> str:
    """What ``nft -f -`` takes, beside a conntrack flush, to make a router forget every mapping."""
    return FORGET_MAPPINGS if kind in BEHAVIOURS and BEHAVIOURS[kind][0] is CONE else ""
