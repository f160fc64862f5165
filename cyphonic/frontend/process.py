"""A frontend process, put together: who gets whom."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from cyphonic.frontend.admission import Admission
from cyphonic.frontend.config import MAX_ADVERTISED, FrontendSection
from cyphonic.frontend.gate import Gate
from cyphonic.frontend.queue import JobQueue
from cyphonic.frontend.server import Door, FrontendServer
from cyphonic.heartbeat import Heartbeat
from cyphonic.interfaces import expand_wildcard
from cyphonic.lifecycle import Lifeline
from cyphonic.metrics import Family, serve_metrics
from cyphonic.pipeline import FrontendPipe, Pipeline, new_instance
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.cookie import CookieMint
from cyphonic.site import Site, SiteKeys
from cyphonic.state.fleet import FrontendMember, agree_on_cookie_secret, read_fleet
from cyphonic.state.store import Store, StoreConfig
from cyphonic.udp import UdpSocket
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.job import Service

WARM_UP = 2.0
"""Seconds: workers find a new frontend within one."""


@contextmanager
def open_frontend(
    site: Site, section: FrontendSection, lifeline: Lifeline, chance: Chance
) -> Iterator[FrontendServer]:
    """A server that is bound and announced; on leaving, it is withdrawn and closed.

    Raise OperationalError: a key file is missing, a port is taken, Redis cannot be reached.
    """
    instance = new_instance(chance)
    keys = SiteKeys(site.keys_dir)
    store = StoreConfig(site.redis_url, site.redis_password())
    with ExitStack() as stack:
        desks = [
            *_desks(Service.AS, section.as_listen, keys.as_public, chance),
            *_desks(Service.NMS, section.nms_listen, keys.nms_public, chance),
        ]
        pipeline = stack.enter_context(Pipeline(site.pipeline, site.pipeline_dir, keys.curve(site.pipeline)))
        pipe = pipeline.frontend(instance)
        stack.callback(pipe.close)
        server = FrontendServer(
            instance,
            pipe,
            needed=_needed(section),
            queue=JobQueue(section.queue, section.patience),
            gate=Gate(section.source_rate, chance),
            drain=section.drain,
            lifeline=lifeline,
        )
        others = section.share_ports and _others_listen(store, section)
        if not others:
            server.open(_open_doors(stack, desks, section.share_ports))
        if section.metrics is not None:
            serve_metrics(section.metrics, _families(server))
        heartbeat = Heartbeat(
            store, lambda: _member(server, pipe, section, site.allow_loopback), _agree(desks, chance)
        )
        heartbeat.start()
        stack.callback(heartbeat.stop)
        if others:  # the kernel gives it a share of their nodes at once, so it had better know a worker by then
            server.wait_for_workers(WARM_UP)
            server.open(_open_doors(stack, desks, section.share_ports))
        yield server


class Desk(NamedTuple):
    """A service of this frontend: where, what it admits, its cookies."""

    endpoints: Sequence[Endpoint]
    admission: Admission
    mint: CookieMint


def _desks(
    service: Service, endpoints: Sequence[Endpoint], public_key: Callable[[], bytes], chance: Chance
) -> list[Desk]:
    if not endpoints:
        return []
    key = public_key()
    return [Desk(endpoints, Admission(service, key), CookieMint(b"", key, chance))]


def _others_listen(config: StoreConfig, section: FrontendSection) -> bool:
    """Whether a frontend of this host listens on one of these ports."""
    mine = set(_expand((*section.as_listen, *section.nms_listen), loopback=False))
    with Store.connect(config) as store:
        return any(mine & set(member.bound) for member in read_fleet(store).frontends)


def _agree(desks: Sequence[Desk], chance: Chance) -> Callable[[Store], None]:
    """Make this frontend's cookies good at every other, and theirs here."""
    mints = [desk.mint for desk in desks]

    def agree(store: Store) -> None:
        mine = mints[0].fleet_secret or chance(32)
        agreed = agree_on_cookie_secret(store, mine)
        if agreed != mine or not mints[0].fleet_secret:
            for mint in mints:
                mint.fleet_secret = agreed

    return agree


def _open_doors(stack: ExitStack, desks: Sequence[Desk], share: bool) -> Iterator[Door]:
    for desk in desks:
        for endpoint in desk.endpoints:
            if endpoint.host == "::" and not Path("/proc/net/if_inet6").exists():
                continue  # every address of a family that this kernel does not have: none
            udp = UdpSocket(endpoint, reuse_port=share)
            stack.callback(udp.close)
            yield Door(udp, desk.admission, desk.mint)


def _needed(section: FrontendSection) -> frozenset[int]:
    """Services without which this frontend serves nobody.  A login is finished by the NMS's workers."""
    services = {Service.AS, Service.NMS} if section.as_listen else {Service.NMS}
    return frozenset(int(service) for service in services)


def _member(server: FrontendServer, pipe: FrontendPipe, section: FrontendSection, loopback: bool) -> FrontendMember:
    bound = _expand((*section.as_listen, *section.nms_listen), loopback=True) if server.is_open else ()
    return FrontendMember(
        instance=server.instance,
        endpoint=pipe.endpoint,
        curve_key=pipe.curve_key,
        as_endpoints=list(section.as_advertise) or advertised(section.as_listen, loopback=loopback),
        nms_endpoints=list(section.nms_advertise) or advertised(section.nms_listen, loopback=loopback),
        bound=list(bound),
        rate=round(server.rate(), 1),
    )


def advertised(endpoints: Iterable[Endpoint], *, loopback: bool) -> list[Endpoint]:
    """What to tell nodes of these: at most eight, both families in turn, loopback only when allowed."""
    found = [
        endpoint
        for endpoint in _expand(endpoints, loopback=loopback)
        if loopback or not ipaddress.ip_address(endpoint.host).is_loopback
    ]
    four = [endpoint for endpoint in found if ":" not in endpoint.host]
    six = [endpoint for endpoint in found if ":" in endpoint.host]
    mixed = chain.from_iterable(zip_longest(four, six))
    return [endpoint for endpoint in mixed if endpoint is not None][:MAX_ADVERTISED]


def _expand(endpoints: Iterable[Endpoint], *, loopback: bool) -> Iterator[Endpoint]:
    for endpoint in endpoints:
        for host in expand_wildcard(endpoint.host, loopback=loopback):
            yield Endpoint(host, endpoint.port)


def _families(server: FrontendServer) -> list[Family]:
    def read_workers() -> Mapping[str, float]:
        return {"": sum(worker.alive for worker in server.credits.workers.values())}

    def read_load() -> Mapping[str, float]:
        return {"": float(server.loaded)}

    return [
        Family("cyphonic_frontend_datagrams_total", "Datagrams by way.", lambda: server.counts, "way"),
        Family("cyphonic_frontend_drops_total", "Datagrams dropped by reason.", server.all_drops, "reason"),
        Family("cyphonic_frontend_batches_total", "Batches by fate.", lambda: server.credits.counts, "fate"),
        Family("cyphonic_frontend_queue_jobs", "Jobs that wait for a worker.", lambda: {"": len(server.queue)}),
        Family("cyphonic_frontend_hints_total", "Hints sent.", lambda: server.gate.counts, "kind"),
        Family("cyphonic_frontend_loaded", "1 while strangers need cookies.", read_load),
        Family("cyphonic_frontend_workers", "Living worker threads.", read_workers),
    ]
