"""Inner IP packets: their addresses, raw (16 bytes, 4 bytes, or nothing for what is no packet), and their count."""

from __future__ import annotations

from dataclasses import dataclass

_MIN_IPV4, _MIN_IPV6 = 20, 40
"""Bytes of a header without options (RFC 791 §3.1, RFC 8200 §3)."""


def source(packet: bytes) -> bytes:
    """Where it says it comes from."""
    version = packet[0] >> 4
    if version == 6 and len(packet) >= _MIN_IPV6:
        return packet[8:24]
    return packet[12:16] if version == 4 and len(packet) >= _MIN_IPV4 else b""


def destination(packet: bytes) -> bytes:
    """Where it is to go."""
    version = packet[0] >> 4
    if version == 6 and len(packet) >= _MIN_IPV6:
        return packet[24:40]
    return packet[16:20] if version == 4 and len(packet) >= _MIN_IPV4 else b""


@dataclass(slots=True)
class Traffic:
    """Inner packets and bytes of one peer."""

    sent_packets: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
