"""What a link does to the packets on it, and who does it: nftables loses, tbf limits, a forwarder delays.

All values hold each way.  The kernels that the laboratory runs on have no netem; hence the split.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

MIN_RATE = 8_000
BURST = 32 * 1024
"""Bytes that tbf lets through at once: at least one segment that offloading has not cut yet."""
QUEUE = "200ms"
"""Of tbf, at its rate; what waits longer is lost."""

# Where frames come in, at both ends: what is lost on a wire is lost behind its sender's back.
LOSS = """
table netdev {table} {{
  chain arrive {{
    type filter hook ingress device "{interface}" priority 0
    numgen random mod 10000 < {loss} drop
  }}
}}
"""
NO_LOSS = """
table netdev {table}
delete table netdev {table}
"""


@dataclass(frozen=True, slots=True)
class Quality:
    """The default changes nothing."""

    loss: float = 0.0
    """Part of all packets, 0 to 1."""
    rate: int = 0
    """Bits per second; 0: as fast as the machine can."""
    delay: float = 0.0
    """Seconds."""
    jitter: float = 0.0
    """Seconds that the delay varies up and down, without changing the order."""
    reorder: float = 0.0
    """Part of all packets that those behind them overtake."""
    duplicate: float = 0.0
    """Part of all packets that come twice."""
    seed: int = 0
    """Of jitter, reordering and duplication: the same seed makes the same schedule."""

    @property
    def needs_forwarder(self) -> bool:
        """Whether nftables and tbf are not enough."""
        return bool(self.delay or self.jitter or self.reorder or self.duplicate)

    def schedule(self) -> dict[str, float | int]:
        """What the forwarder needs to know."""
        values = asdict(self)
        return {name: values[name] for name in ("delay", "jitter", "reorder", "duplicate", "seed")}

    def rules(self, table: str, interface: str) -> str:
        """What ``nft -f -`` takes at one end of the link, in the place of what it took before as ``table``."""
        loss = LOSS.format(table=table, interface=interface, loss=round(self.loss * 10_000)) if self.loss else ""
        return NO_LOSS.format(table=table) + loss

    def shaping(self, interface: str) -> str:
        """A shell line for one end of the link."""
        if not self.rate:
            return f"tc qdisc del dev {interface} root 2>/dev/null || true"
        return f"tc qdisc replace dev {interface} root tbf rate {self.rate}bit burst {BURST} latency {QUEUE}"
