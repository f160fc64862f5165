"""Strangers' datagrams by the ten thousand a second, from as many forged sources of 127.0.0.0/8.

``python -m tests.flood`` reads what to send from stdin, as JSON, and says on stdout how much it sent.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyphonic.protocol.keys import KeyPair
from cyphonic.protocol.login import LoginInitiator
from cyphonic.protocol.mac import append_macs, mac1_key
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import MessageType, SignalingHeader, encode_relayed
from cyphonic.wire.login import LoginRequest
from tests.bench.harness import REPOSITORY

VARIANTS = 512
SOURCES = 32768
SLICE = 0.002
"""Seconds; the flood is even, not in bursts that only a socket buffer would meet."""
IP_PKTINFO = 8
_PACKET_INFO = struct.Struct("=I4s4s")

Target = tuple[Endpoint, list[bytes]]


def logins(as_public: bytes) -> list[bytes]:
    """True in all but that nobody enrolled these keys: each costs the AS a handshake and a look into Redis."""
    return [
        LoginInitiator(KeyPair.generate(os.urandom), as_public, os.urandom).request(
            os.urandom(16), LoginRequest(time.time_ns(), "stranger", b"", [1], "")
        )
        for _ in range(VARIANTS)
    ]


def requests(nms_public: bytes) -> list[bytes]:
    """What nodes send, with the right MAC1, under keys that nobody has."""
    key = mac1_key(nms_public)
    kinds = (
        MessageType.KEEP_ALIVE,
        MessageType.DIRECTION_REQUEST,
        MessageType.ROUTE_DIRECTION_CONFIRMATION,
        MessageType.PATH_REVOCATION_ACK,
    )
    return [append_macs(_header(kind, os.urandom(16)) + os.urandom(64), key) for kind in kinds * (VARIANTS // 4)]


def binds(relay_public: bytes) -> list[bytes]:
    """RelayBinds with the right MAC1 and a token of nobody."""
    key = mac1_key(relay_public)
    start = bytes((MessageType.RELAY_BIND, 1, 0, 0, 0, 0, 0, 1))
    return [append_macs(start + os.urandom(16) + bytes(16) + os.urandom(160), key) for _ in range(VARIANTS)]


def relayed() -> list[bytes]:
    """Datagrams for bindings that somebody else may have."""
    return [
        encode_relayed(random.getrandbits(32)) + os.urandom(random.randrange(16, 1200)) for _ in range(VARIANTS)
    ]


def garbage() -> list[bytes]:
    """Of any length and content."""
    return [os.urandom(random.randrange(1, 1200)) for _ in range(VARIANTS)]


def _header(kind: MessageType, node_id: bytes) -> bytes:
    return SignalingHeader(kind, 1, node_id, os.urandom(16)).encode()


class Flood:
    """One that runs, and how much it sent once it has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.rate = 0.0
        """Datagrams per second."""
        self.sent = 0


@contextmanager
def flood(targets: Sequence[Target], rate: int, duration: float) -> Iterator[Flood]:
    """Datagrams of all ``targets`` in turn, ``rate`` per second together, for at most ``duration`` seconds.

    It has begun inside of the block, and is waited for at its end.
    """
    plan = {
        "targets": [[*target, [datagram.hex() for datagram in datagrams]] for target, datagrams in targets],
        "rate": rate,
        "duration": duration,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.flood"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    running = Flood(process)
    try:
        process.stdin.write(json.dumps(plan))
        process.stdin.close()
        assert process.stdout.readline() == "begun\n"
        yield running
        done = json.loads(process.stdout.readline())
        running.sent, running.rate = done["sent"], done["sent"] / done["seconds"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main() -> None:
    """Send what stdin says."""
    plan = json.load(sys.stdin)
    choose = random.Random(1)
    sources = [
        [(socket.IPPROTO_IP, IP_PKTINFO, _PACKET_INFO.pack(0, bytes((127, *choose.randbytes(2), 77)), bytes(4)))]
        for _ in range(SOURCES)
    ]
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(8)]
    for each in sockets:
        each.bind(("0.0.0.0", 0))
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
    stock = [((host, port), bytes.fromhex(data)) for host, port, all_data in plan["targets"] for data in all_data]
    choose.shuffle(stock)
    print("begun", flush=True)
    print(json.dumps(_send(plan, sockets, stock, sources)), flush=True)


def _send(
    plan: dict[str, Any], sockets: list[socket.socket], stock: list[Any], sources: list[Any]
) -> dict[str, float]:
    sends = [each.sendmsg for each in sockets]
    attempts = sent = 0
    start = time.monotonic()
    while (now := time.monotonic()) < start + plan["duration"]:
        due = int((now - start) * plan["rate"]) - attempts
        for number in range(attempts, attempts + due):
            address, datagram = stock[number % len(stock)]
            try:
                sends[number % 8]((datagram,), sources[number * 7919 % SOURCES], 0, address)
                sent += 1
            except OSError:  # the buffer is full
                pass
        attempts += due
        time.sleep(SLICE)
    return {"sent": sent, "seconds": time.monotonic() - start}


if __name__ == "__main__":
    main()
