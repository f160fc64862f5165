"""One relay process, put together."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from cyphonic.errors import OperationalError
from cyphonic.heartbeat import Heartbeat
from cyphonic.lifecycle import Lifeline, StopSignal
from cyphonic.logs import pairs
from cyphonic.metrics import Family, serve_metrics
from cyphonic.pipeline import new_instance
from cyphonic.relay.advertisement import advertised_endpoints
from cyphonic.relay.bindings import BindingLimits, BindingTable
from cyphonic.relay.config import RelaySection
from cyphonic.relay.forwarding import RelaySocket
from cyphonic.relay.server import RelayServer
from cyphonic.site import Site, SiteKeys
from cyphonic.state.fleet import RelayMember
from cyphonic.state.store import StoreConfig
from cyphonic.wire.endpoint import Endpoint

_log = logging.getLogger(__name__)


def run_relay(site: Site, section: RelaySection, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT.  Raise OperationalError for what a person must put right."""
    keys = SiteKeys(site.keys_dir)
    limits = BindingLimits(max_bindings=section.max_bindings, rate=section.rate)
    table = BindingTable(keys.relay_key(), keys.nms_public(), os.urandom, limits)
    sockets = open_sockets(section.listen, table.drops)
    other_sockets = open_sockets([Endpoint(one.endpoint.host, section.probe_port) for one in sockets], table.drops)
    lifeline = Lifeline(environ)
    server = RelayServer(table, sockets, drain=section.drain, tick=lifeline.tick, other_sockets=other_sockets)
    bound = [relay_socket.endpoint for relay_socket in sockets]
    instance = new_instance(os.urandom)

    def member() -> RelayMember:
        endpoints = list(section.advertise) or advertised_endpoints(site, bound)
        return RelayMember(instance, table.relay.public, endpoints, round(len(table) / limits.max_bindings, 4))

    heartbeat = Heartbeat(StoreConfig(site.redis_url, site.redis_password()), member)

    def stopping() -> None:
        _log.info("draining", extra=pairs(bindings=len(table), seconds=section.drain))
        lifeline.stopping()
        # In a thread of its own: a Redis that is away must not hold up who is bound.
        threading.Thread(target=heartbeat.stop, daemon=True).start()

    try:
        if section.metrics is not None:
            serve_metrics(section.metrics, metric_families(table))
        with StopSignal() as stop:
            heartbeat.start()
            _log.info(
                "relay ready", extra=pairs(listen=",".join(map(str, bound)), advertise=_text(member().endpoints))
            )
            lifeline.set_ready(True, f"relaying on {', '.join(map(str, bound))}")
            server.run(stop, stopping)
    finally:
        heartbeat.stop()
        server.close()
    _log.info("relay ended", extra=pairs(datagrams=table.forwarded_datagrams, dropped=table.drops.total()))


def open_sockets(listen: Sequence[Endpoint], drops: Counter[str]) -> list[RelaySocket]:
    """A socket for each endpoint; a kernel without IPv6 does without ``[::]``.  Raise OperationalError."""
    sockets: list[RelaySocket] = []
    try:
        for endpoint in listen:
            if endpoint.host == "::" and len(listen) > 1 and not _has_ipv6():
                _log.warning("this machine has no IPv6, relaying IPv4 only")
                continue
            sockets.append(RelaySocket(endpoint, drops))
    except OperationalError:
        for opened in sockets:
            opened.close()
        raise
    return sockets


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::", 0))
    except OSError as error:
        return error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True


def metric_families(table: BindingTable) -> list[Family]:
    """What a relay counts."""
    return [
        Family(
            "cyphonic_relay_forwarded_bytes_total",
            "Bytes passed on, headers included.",
            lambda: {"": table.forwarded_bytes},
        ),
        Family(
            "cyphonic_relay_forwarded_datagrams_total",
            "Datagrams passed on.",
            lambda: {"": table.forwarded_datagrams},
        ),
        Family("cyphonic_relay_bindings", "Roles bound now.", lambda: {"": len(table)}),
        Family("cyphonic_relay_joined_paths", "Paths with both roles bound.", lambda: {"": table.joined_paths}),
        Family("cyphonic_relay_cookies_total", "CookieReplies sent.", lambda: {"": table.cookies_sent}),
        Family("cyphonic_relay_drops_total", "Datagrams dropped.", lambda: dict(table.drops), "reason"),
    ]


def _text(endpoints: Sequence[Endpoint]) -> str:
    return ",".join(map(str, endpoints)) or "nothing"
