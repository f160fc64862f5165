"""The MACs outside of encryption: MAC1 and MAC2 towards the cloud, one MAC under the path key between nodes.

A MAC is keyed BLAKE2s with 16 bytes of digest.  MAC1 (WireGuard's idea) proves nothing but that the sender
knows the service's public key, which already turns away scanners and reflections before any key exchange.
MAC2 is keyed by a cookie, zero without one::

    datagram | MAC1(datagram) | MAC2(datagram | MAC1)
"""

from __future__ import annotations

import hmac
from hashlib import blake2s

from cyphonic.errors import MalformedError
from cyphonic.wire.header import MAC_LENGTH, MACS_LENGTH

NO_MAC = bytes(MAC_LENGTH)

_MAC1_LABEL = b"cyphonic mac1 v1"
_PATH_LABEL = b"cyphonic path mac v1"


def mac(key: bytes, data: bytes) -> bytes:
    """16 bytes of BLAKE2s keyed by up to 32 bytes."""
    return blake2s(data, key=key, digest_size=MAC_LENGTH).digest()


def mac1_key(service_public_key: bytes) -> bytes:
    """The 32-byte key of MAC1 for a service, from its X25519 public key."""
    return blake2s(_MAC1_LABEL + service_public_key).digest()


def append_macs(datagram: bytes, mac1_key: bytes, cookie: bytes = b"") -> bytes:
    """``datagram`` with MAC1, and MAC2 under ``cookie`` where there is one: 32 bytes longer."""
    with_mac1 = datagram + mac(mac1_key, datagram)
    return with_mac1 + (mac(cookie, with_mac1) if cookie else NO_MAC)


def check_mac1(datagram: bytes, mac1_key: bytes) -> None:
    """Raise MalformedError("too_short" or "bad_mac1")."""
    if len(datagram) <= MACS_LENGTH:
        raise MalformedError("too_short")
    if not hmac.compare_digest(mac(mac1_key, datagram[:-MACS_LENGTH]), datagram[-MACS_LENGTH:-MAC_LENGTH]):
        raise MalformedError("bad_mac1")


def strip_macs(datagram: bytes) -> bytes:
    """What ``append_macs`` was given."""
    return datagram[:-MACS_LENGTH]


def path_mac_key(path_key: bytes) -> bytes:
    """The 32-byte key of the MAC on handshake messages and hole punches of a path."""
    return blake2s(_PATH_LABEL, key=path_key).digest()


def append_path_mac(datagram: bytes, key: bytes) -> bytes:
    """``datagram`` with its MAC under ``path_mac_key``: 16 bytes longer."""
    return datagram + mac(key, datagram)


def check_path_mac(datagram: bytes, key: bytes) -> None:
    """Raise MalformedError("bad_path_mac") unless the last 16 bytes are the MAC of those before."""
    if not hmac.compare_digest(mac(key, datagram[:-MAC_LENGTH]), datagram[-MAC_LENGTH:]):
        raise MalformedError("bad_path_mac")
