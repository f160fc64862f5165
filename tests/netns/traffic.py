"""Steady traffic between two hosts of a lab, both ways: run as a program on each, and what the test reads from it.

UDP datagrams at 50 a second, whose arrivals are noted by the clock that all namespaces share, and a TCP stream at a
steady rate, whose SHA-256 the other end must find too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from cyphonic.lab.build import Lab

UDP_PORT, TCP_PORT = 7071, 7072
UDP_INTERVAL = 0.02
TCP_INTERVAL = 0.02
TCP_CHUNK = 20_000
"""Bytes: 1 MB/s."""
CONNECT_TIMEOUT = 20.0
END_TIMEOUT = 60.0


class Traffic:
    """Both directions between two hosts; ``with`` starts it, and ends it if ``finish`` did not."""

    def __init__(self, lab: Lab, addresses: dict[str, str]) -> None:
        """``addresses``: of the two hosts, in the overlay."""
        first, second = addresses
        peers = {first: addresses[second], second: addresses[first]}
        self._ends = {
            host: lab.popen(host, [sys.executable, __file__, peer], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for host, peer in peers.items()
        }

    def __enter__(self) -> Traffic:
        for host in self._ends:
            self._read(host)
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends.values():
            end.kill()
            end.communicate()

    def finish(self) -> dict[str, dict[str, Any]]:
        """Send no more; by host: ``arrivals`` there, ``sent`` and ``received`` of TCP as (bytes, SHA-256)."""
        for end in self._ends.values():
            assert end.stdin is not None
            end.stdin.write(b"\n")
            end.stdin.flush()
        return {host: self._read(host) for host in self._ends}

    def _read(self, host: str) -> dict[str, Any]:
        output = self._ends[host].stdout
        assert output is not None
        answer: dict[str, Any] = json.loads(output.readline() or b'{"error": "the traffic program has ended"}')
        assert "error" not in answer, f"{host}: {answer['error']}"
        return answer


class _End:
    """What one host does."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._stop = threading.Event()
        self._arrivals: list[float] = []
        self._received: tuple[int, str] = (0, "")
        self._sent: tuple[int, str] = (0, "")

    def run(self) -> None:
        listener = socket.create_server(("::", TCP_PORT), family=socket.AF_INET6)
        inlet = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        inlet.bind(("::", UDP_PORT))
        threading.Thread(target=self._note_arrivals, args=(inlet,), daemon=True).start()
        receiving = threading.Thread(target=self._receive_stream, args=(listener,), daemon=True)
        receiving.start()
        outgoing = self._connect()
        sending = threading.Thread(target=self._send_stream, args=(outgoing,), daemon=True)
        sending.start()
        threading.Thread(target=self._send_datagrams, daemon=True).start()
        _write({})
        sys.stdin.readline()
        self._stop.set()
        for thread in (sending, receiving):
            thread.join(END_TIMEOUT)
        if receiving.is_alive() or sending.is_alive():
            _write({"error": f"the TCP stream has not ended after {END_TIMEOUT:g} s"})
        else:
            _write({"arrivals": self._arrivals, "sent": self._sent, "received": self._received})

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while True:
            try:
                return socket.create_connection((self._peer, TCP_PORT), timeout=CONNECT_TIMEOUT)
            except OSError as error:
                if time.monotonic() > deadline:
                    _write({"error": f"no connection to {self._peer}: {error}"})
                    raise SystemExit(1) from error
                time.sleep(0.05)

    def _note_arrivals(self, inlet: socket.socket) -> None:
        while True:
            inlet.recv(64)
            self._arrivals.append(time.monotonic())

    def _send_datagrams(self) -> None:
        outlet = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        due = time.monotonic()
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                outlet.sendto(bytes(32), (self._peer, UDP_PORT))
            due += UDP_INTERVAL
            time.sleep(max(0.0, due - time.monotonic()))

    def _send_stream(self, outgoing: socket.socket) -> None:
        digest, size = hashlib.sha256(), 0
        outgoing.settimeout(END_TIMEOUT)
        with outgoing:
            while not self._stop.is_set():
                chunk = os.urandom(TCP_CHUNK)
                outgoing.sendall(chunk)
                digest.update(chunk)
                size += len(chunk)
                time.sleep(TCP_INTERVAL)
            outgoing.shutdown(socket.SHUT_WR)
            outgoing.recv(1)  # the other end has all
        self._sent = size, digest.hexdigest()

    def _receive_stream(self, listener: socket.socket) -> None:
        digest, size = hashlib.sha256(), 0
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65536):
                digest.update(data)
                size += len(data)
            connection.sendall(b"!")
        self._received = size, digest.hexdigest()


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _End(sys.argv[1]).run()
