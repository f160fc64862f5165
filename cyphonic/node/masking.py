"""Hiding who and where in a text, consistently: the same address or name becomes the same stand-in everywhere.

What a reader needs to understand a network stays: the family, whether an address is private, ports and prefix
lengths, loopback and unspecified addresses.  Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\w)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:](?![\w:])")
_HARDWARE = re.compile(r"\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b")
_KEY = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=")
_HOME = re.compile(r"(?<=/home/)[^/\s\"']+")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"


class Masker:
    """Give it every name that is known first (``zone``: that of the overlay), then text after text."""

    def __init__(self, names: Iterable[str] = (), zone: str = "") -> None:
        self._stand_ins: dict[tuple[str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._names: set[str] = set()
        self._zone = zone
        self._fqdn = re.compile(rf"\b({_LABEL})\.{re.escape(zone)}\b") if zone else None
        for name in names:
            self._know(name)

    def mask(self, text: str) -> str:
        """The text without addresses, names and keys."""
        if self._fqdn is not None:
            for match in self._fqdn.finditer(text):
                self._know(match[1])
        text = _KEY.sub(lambda match: self._stand_in("key", match[0]), text)
        text = _HARDWARE.sub(lambda match: self._stand_in("hardware", match[0]), text)
        text = _IPV6.sub(self._mask_address, text)
        text = _IPV4.sub(self._mask_address, text)
        text = _HOME.sub(lambda match: self._stand_in("user", match[0]), text)
        if self._zone:
            text = text.replace(self._zone, self._stand_in("zone", self._zone))
        for name in sorted(self._names, key=len, reverse=True):
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", self._stand_in("name", name), text)
        return text

    def _know(self, name: str) -> None:
        label = name.removesuffix(f".{self._zone}") if self._zone else name
        if len(label) > 1:
            self._names.add(label)

    def _mask_address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        if address.is_loopback or address.is_unspecified:
            return match[0]
        kind = "linklocal" if address.is_link_local else "private" if address.is_private else "public"
        return self._stand_in(f"ipv{address.version}-{kind}", str(address))

    def _stand_in(self, kind: str, what: str) -> str:
        known = self._stand_ins.get((kind, what))
        if known is None:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            known = self._stand_ins[kind, what] = f"{kind}-{self._counts[kind]}"
        return known
