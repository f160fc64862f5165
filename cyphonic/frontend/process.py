"""A frontend process, put together: who gets whom."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, zip_longest
from pathlib import Path

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
from cyphonic.state.fleet import FrontendMember, agree_on_cookie_secret
from cyphonic.state.store import Store, StoreConfig
from cyphonic.udp import UdpSocket
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.job import Service


@contextmanager
def open_frontend(
    site: Site, section: FrontendSection, lifeline: Lifeline, chance: Chance
) -> Iterator[FrontendServer]:
    """A server that is bound and announced; on leaving, it is withdrawn and closed.

    Raise OperationalError: a key file is missing, a port is taken, Redis cannot be reached.
    """
    instance = new_instance(chance)
    keys = SiteKeys(site.keys_dir)
    with ExitStack() as stack:
        doors = [
            *_open_doors(stack, Service.AS, section.as_listen, keys.as_public, section.share_ports, chance),
            *_open_doors(stack, Service.NMS, section.nms_listen, keys.nms_public, section.share_ports, chance),
        ]
        pipeline = stack.enter_context(Pipeline(site.pipeline, site.pipeline_dir, keys.curve(site.pipeline)))
        pipe = pipeline.frontend(instance)
        stack.callback(pipe.close)
        server = FrontendServer(
            instance,
            doors,
            pipe,
            needed=_needed(section),
            queue=JobQueue(section.queue, section.patience),
            gate=Gate(section.source_rate, chance),
            drain=section.drain,
            lifeline=lifeline,
        )
        if section.metrics is not None:
            serve_metrics(section.metrics, _families(server))
        heartbeat = Heartbeat(
            StoreConfig(site.redis_url, site.redis_password()),
            lambda: _member(instance, pipe, section, site.allow_loopback),
            _agree(doors, chance),
        )
        heartbeat.start()
        stack.callback(heartbeat.stop)
        yield server


def _agree(doors: Sequence[Door], chance: Chance) -> Callable[[Store], None]:
    """Make this frontend's cookies good at every other, and theirs here."""
    mints = [door.mint for door in doors]

    def agree(store: Store) -> None:
        mine = mints[0].fleet_secret or chance(32)
        agreed = agree_on_cookie_secret(store, mine)
        if agreed != mine or not mints[0].fleet_secret:
            for mint in mints:
                mint.fleet_secret = agreed

    return agree


def _open_doors(
    stack: ExitStack,
    service: Service,
    endpoints: Sequence[Endpoint],
    public_key: Callable[[], bytes],
    share: bool,
    chance: Chance,
) -> Iterator[Door]:
    if not endpoints:
        return
    key = public_key()
    admission = Admission(service, key)
    mint = CookieMint(b"", key, chance)
    for endpoint in endpoints:
        if endpoint.host == "::" and not Path("/proc/net/if_inet6").exists():
            continue  # every address of a family that this kernel does not have: none
        udp = UdpSocket(endpoint, reuse_port=share)
        stack.callback(udp.close)
        yield Door(udp, admission, mint)


def _needed(section: FrontendSection) -> frozenset[int]:
    """Services without which this frontend serves nobody.  A login is finished by the NMS's workers."""
    services = {Service.AS, Service.NMS} if section.as_listen else {Service.NMS}
    return frozenset(int(service) for service in services)


def _member(instance: str, pipe: FrontendPipe, section: FrontendSection, loopback: bool) -> FrontendMember:
    return FrontendMember(
        instance=instance,
        endpoint=pipe.endpoint,
        curve_key=pipe.curve_key,
        as_endpoints=list(section.as_advertise) or advertised(section.as_listen, loopback=loopback),
        nms_endpoints=list(section.nms_advertise) or advertised(section.nms_listen, loopback=loopback),
        bound=list(_expand((*section.as_listen, *section.nms_listen), loopback=True)),
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
