"""Datagrams per second through a real relay process, from IPv4 to IPv4 on the loopback interface.

Burst size decides: a tunnel sends runs of up to 44 pieces, which cross the relay in one read and one write; lone
datagrams cost a system call each way.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress

from cyphonic.protocol.binding import Binding
from cyphonic.protocol.limits import TOKEN_LIFETIME
from cyphonic.protocol.token import seal_token
from cyphonic.relay.forwarding import UDP_GRO, UDP_SEGMENT
from cyphonic.site import SiteKeys
from cyphonic.wire.direction import RelayGrant, Role
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import encode_relayed
from cyphonic.wire.relay import RelayToken
from tests.bench.cluster import Cluster, running_cluster
from tests.bench.harness import RUNS, Benchmark, CpuMeter, ForeignLoad

BURSTS = (1, 8, 44)
DURATION = 2.0
DATAGRAM = 1200
MAX_UNDER_WAY = 1500
"""Datagrams sent and not yet received: below what the socket buffers hold."""
PATIENCE = 5.0
TAIL = 0.1
"""Seconds for what is still under way at the end."""


class End:
    """A node's socket, bound at the relay."""

    def __init__(self, keys: SiteKeys, relay: Endpoint, path_id: bytes, role: Role) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
        self.socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(relay)
        bind_key, public = os.urandom(32), keys.relay_public()
        token = RelayToken(path_id, role, bind_key, int(time.time()) + TOKEN_LIFETIME, 0)
        grant = RelayGrant(
            public, [relay.encode()], seal_token(token, keys.nms_key(), public, os.urandom), bind_key
        )
        binding = Binding(grant, path_id, role, relay, os.urandom)
        binding.start(time.monotonic())
        while not binding.bound:
            for datagram, _ in binding.datagrams_to_send():
                self.socket.send(datagram)
            binding.receive_datagram(self.socket.recv(2048), relay, time.monotonic())
        self.header = encode_relayed(binding.relay_index or 0)
        self.socket.setblocking(False)

    def receive(self) -> int:
        """Datagrams that are there now."""
        count = 0
        with suppress(BlockingIOError):
            while True:
                count += -(-len(self.socket.recv(65535)) // DATAGRAM)
        return count


def main() -> bool:
    """Measure; there is no target."""
    benchmark = Benchmark(
        "relay", f"Relay: {DATAGRAM}-byte datagrams, sender, relay and receiver on the same cores"
    )
    with running_cluster("rate = 0\n") as cluster:
        keys = SiteKeys(cluster.directory / "keys")
        for _ in range(RUNS):
            for burst in BURSTS:
                measure(benchmark, cluster, keys, burst)
    return benchmark.finish()


def measure(benchmark: Benchmark, cluster: Cluster, keys: SiteKeys, burst: int) -> None:
    """One run of one burst size."""
    path_id = os.urandom(16)
    sender, receiver = (End(keys, cluster.relay, path_id, role) for role in Role)
    run = (sender.header + bytes(DATAGRAM - len(sender.header))) * burst
    segment = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM))] if burst > 1 else []
    meter, foreign, own = CpuMeter({"relay": cluster.processes()["relay"]}), ForeignLoad(), time.process_time()
    sent = received = 0
    start = time.monotonic()
    while (now := time.monotonic()) < start + DURATION:
        if sent - received < MAX_UNDER_WAY:
            with suppress(BlockingIOError):
                sender.socket.sendmsg([run], segment)
                sent += burst
        received += receiver.receive()
    elapsed = now - start
    arrived = received
    while received < sent and time.monotonic() < start + elapsed + TAIL:
        received += receiver.receive()
    cpu = meter.used()["relay"]
    taken = foreign.percent(cpu + time.process_time() - own)
    sender.socket.close()
    receiver.socket.close()
    benchmark.add(f"bursts of {burst}", "datagrams/s", arrived / elapsed)
    benchmark.add(f"bursts of {burst}: CPU relay", "µs a datagram", 1e6 * cpu / max(1, received), digits=2)
    benchmark.add(f"bursts of {burst}: lost", "%", 100 * max(0, sent - received) / max(1, sent), digits=2)
    benchmark.add(f"bursts of {burst}: machine used by others", "%", taken, digits=1)
