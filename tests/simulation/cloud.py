"""The cloud in virtual time: real handlers over a real Redis, without UDP and ZeroMQ.

Workers die between saving and sending; Redis loses its scripts or everything volatile; time in Redis is moved along
with the virtual clock, so that expiry is tested too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyphonic.errors import DropError
from cyphonic.frontend.admission import Admission
from cyphonic.frontend.gate import Gate, TurnedAwayError
from cyphonic.protocol.client import Cloud
from cyphonic.protocol.cookie import CookieMint
from cyphonic.protocol.keys import KeyPair, SigningKeyPair
from cyphonic.site import Site
from cyphonic.state.fleet import Fleet, FrontendMember, RelayMember
from cyphonic.state.store import Store
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.job import JOB_SERVICE, Job, Origin, Route, Service
from cyphonic.workers.dispatch import Dispatcher
from cyphonic.workers.setting import ServiceKeys
from tests.simulation.network import Clock, Network
from tests.simulation.world import Chance, SimulatedRelay

AS_PORT, NMS_PORT = 4500, 4501
NO_ROUTE = Route("", 0, "", 0)

SITE = Site(
    region="main",
    domain="cyphonic.example",
    prefix_ipv6="fd12:3456:789a::/48",
    pool_ipv4="10.77.0.0/16",
    keys_dir=Path("/nonexistent"),
    run_dir=Path("/nonexistent"),
    state_dir=Path("/nonexistent"),
    allow_loopback=False,
    redis_url="",
    redis_password_file=None,
)


class SimulatedCloud:
    """Frontends, workers of both services and relays."""

    def __init__(self, clock: Clock, network: Network, store: Store, chance: Chance, hosts: list[str]) -> None:
        self.clock = clock
        self.network = network
        self.store = store
        self.chance = chance
        self.drops: Counter[str] = Counter()
        self.worker_dies = 0.0
        """Probability that a worker dies after a batch was saved, before anything was sent."""
        self.down = False
        self.expiry_interval = 5.0
        """Virtual seconds between two looks at what has expired in Redis."""
        as_key, nms_key, signing = (
            KeyPair.generate(chance),
            KeyPair.generate(chance),
            SigningKeyPair.generate(chance),
        )
        self.keys = ServiceKeys(chance(32), as_key.public, signing.public, nms_key.public, as_key, signing, nms_key)
        self.bundle = Cloud(
            as_key.public,
            signing.public,
            tuple(Endpoint(host, AS_PORT) for host in hosts),
            SITE.region,
            SITE.domain,
        )
        self._workers = [
            Dispatcher([service], self.keys, SITE, chance)
            for service in (Service.AS, Service.NMS)
            for _ in range(2)
        ]
        self._admission = {
            AS_PORT: Admission(Service.AS, as_key.public),
            NMS_PORT: Admission(Service.NMS, nms_key.public),
        }
        self.gate = Gate(100.0, chance)
        self._mints = {
            port: CookieMint(chance(32), key.public, chance)
            for port, key in ((AS_PORT, as_key), (NMS_PORT, nms_key))
        }
        self.tap: Callable[[Job], None] = lambda job: None
        """Sees every job just before a worker does."""
        self.relays: list[SimulatedRelay] = []
        self._frontend = FrontendMember(
            "frontend",
            "",
            as_endpoints=[Endpoint(host, AS_PORT) for host in hosts],
            nms_endpoints=[Endpoint(host, NMS_PORT) for host in hosts],
            bound=[Endpoint(host, port) for host in hosts for port in (AS_PORT, NMS_PORT)],
        )
        for host in hosts:
            network.attach(host, self._receive)
        self._expired_at = clock.now
        clock.at(clock.now + 1, self._expire)

    def add_relay(self, hosts: list[str]) -> SimulatedRelay:
        relay = SimulatedRelay(self.clock, self.network, hosts, self.keys.nms_public, self.chance)
        self.relays.append(relay)
        return relay

    @property
    def fleet(self) -> Fleet:
        relays = [
            RelayMember(f"relay{number}", relay.key.public, relay.endpoints)
            for number, relay in enumerate(self.relays)
        ]
        return Fleet([self._frontend], [], relays)

    def submit(self, datagram: bytes, origin: Origin = Origin.PIPELINE, route: Route = NO_ROUTE) -> None:
        """A job on its way to whichever worker comes next."""
        delay = self.chance.random.uniform(0.0005, 0.003)
        self.clock.at(self.clock.now + delay, lambda: self._work(Job(datagram, origin, route)))

    def _receive(self, datagram: bytes, source: Endpoint, destination: Endpoint) -> None:
        if self.down:
            return
        admission = self._admission.get(destination.port)
        if admission is None:
            return
        try:
            admitted = admission.admit(datagram)
            mint = self._mints[destination.port]
            self.gate.admit(datagram, source.encode(), mint, self.clock.now, self.clock.wall)
        except DropError as drop:
            self.drops[drop.reason] += 1
            if isinstance(drop, TurnedAwayError) and drop.answer is not None:
                self.network.send(drop.answer, destination, source)
            return
        self.submit(admitted, Origin.UDP, Route(destination.host, destination.port, source.host, source.port))

    def _work(self, job: Job) -> None:
        if self.down:
            return
        service = JOB_SERVICE[job.datagram[0]]  # type: ignore[index]  # an IntEnum's value hashes like it
        first = 0 if service is Service.AS else 2
        worker = self._workers[first + self.chance.random.randrange(2)]
        self.tap(job)
        outcome = worker.handle([job], self.store, self.clock.wall, self.fleet)
        self.drops += outcome.drops
        if self.chance.random.random() < self.worker_dies:
            return
        for send in outcome.sends:
            route = send.route
            node = Endpoint(route.node_host, route.node_port)
            self.gate.note_sent(send.datagram[0], node.encode(), self.clock.now)
            self.network.send(send.datagram, Endpoint(route.service_host, route.service_port), node)
        for forward in outcome.forwards:
            self.submit(forward)

    def forget_volatile(self) -> None:
        """Redis loses everything that expires."""
        for key, ttl in self._lifetimes():
            if ttl >= 0:
                self.store.run(("DEL", key))

    def forget_scripts(self) -> None:
        """As after a restart of Redis."""
        self.store.run(("SCRIPT", "FLUSH"))

    def _lifetimes(self) -> list[tuple[bytes, int]]:
        found: list[bytes] = self.store.run(("KEYS", "*"))
        if not found:
            return []
        ttls: list[Any] = self.store.round_trip([("PTTL", key) for key in found])
        return list(zip(found, ttls, strict=True))

    def _expire(self) -> None:
        passed = int((self.clock.now - self._expired_at) * 1000)
        self._expired_at = self.clock.now
        commands: list[Any] = []
        for key, ttl in self._lifetimes():
            if ttl >= 0:
                commands.append(("DEL", key) if ttl <= passed else ("PEXPIRE", key, ttl - passed))
        if commands:
            self.store.round_trip(commands)
        self.clock.at(self.clock.now + self.expiry_interval, self._expire)
