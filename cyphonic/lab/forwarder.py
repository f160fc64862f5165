"""Joins two interfaces as a slow wire would: ``python -m cyphonic.lab.forwarder LEFT RIGHT``.

It takes frames from one raw socket and puts them on the other when their time has come.  Standard input brings
the schedule, one JSON object a line: ``{"delay": s, "jitter": s, "reorder": p, "duplicate": p, "seed": n}``; each
line takes the place of the one before, and for frames that come after it only.  It ends with its input.

Frames bear the kernel's virtio header, so that checksums and segments which offloading has left open stay so.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import sys
import time
from dataclasses import dataclass, field

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 0x0003
MAX_FRAME = 70_000
MAX_WAITING = 50_000
"""Frames; more are lost, as in any queue."""
OVERTAKEN_BY = 0.01
"""Seconds that a reordered frame comes after its turn."""
BATCH = 64


@dataclass(slots=True)
class Schedule:
    """When each frame of one direction is due; the same seed and frames give the same times."""

    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    seed: int = 0
    _chance: random.Random = field(init=False)
    _last: float = 0.0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def times(self, now: float) -> list[float]:
        """When to send a frame that came ``now``: once or twice."""
        chance = self._chance
        due = max(self._last, now + max(0.0, self.delay + chance.uniform(-self.jitter, self.jitter)))
        if chance.random() < self.reorder:
            due += OVERTAKEN_BY + chance.random() * OVERTAKEN_BY
        else:
            self._last = due
        return [due, due] if chance.random() < self.duplicate else [due]


class Forwarder:
    """Two sockets, a schedule each way, and what waits."""

    def __init__(self, left: socket.socket, right: socket.socket) -> None:
        self._ways = {left: right, right: left}
        self._schedules = {left: Schedule(), right: Schedule()}
        self._waiting: list[tuple[float, int, socket.socket, bytes]] = []
        self._serial = 0

    def set_schedule(self, settings: dict[str, float | int]) -> None:
        """From now on; the two ways differ in their seed."""
        seed = int(settings.pop("seed", 0))
        for way, source in enumerate(self._schedules):
            self._schedules[source] = Schedule(**settings, seed=2 * seed + way)

    def run(self, commands: int) -> None:
        """Until ``commands``, a file descriptor, ends."""
        text = b""
        while True:
            inputs: list[socket.socket | int] = [*self._ways, commands]
            readable, _, _ = select.select(inputs, [], [], self._patience())
            if commands in readable:
                data = os.read(commands, 4096)
                if not data:
                    return
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    self.set_schedule(json.loads(line))
                    os.write(sys.stdout.fileno(), b"ok\n")
            for source in self._ways:
                if source in readable:
                    self._take(source)
            self._put()

    def _patience(self) -> float | None:
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None

    def _take(self, source: socket.socket) -> None:
        target, schedule = self._ways[source], self._schedules[source]
        for _ in range(BATCH):
            try:
                frame = source.recv(MAX_FRAME)
            except BlockingIOError:
                return
            for due in schedule.times(time.monotonic()):
                if len(self._waiting) < MAX_WAITING:
                    self._serial += 1
                    heapq.heappush(self._waiting, (due, self._serial, target, frame))

    def _put(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, target, frame = heapq.heappop(self._waiting)
            try:
                target.send(frame)
            except OSError:  # the interface is down or full: the frame is lost, as on any wire
                continue


def open_interface(name: str) -> socket.socket:
    """A raw socket on an interface: what arrives there, not what leaves."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    packet.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    packet.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    packet.bind((name, ETH_P_ALL))
    packet.setblocking(False)
    return packet


def main() -> None:
    """Forward until standard input ends."""
    left, right = (open_interface(name) for name in sys.argv[1:3])
    Forwarder(left, right).run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
