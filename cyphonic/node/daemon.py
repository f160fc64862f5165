"""The daemon of one device: the overlay's pure core, wired to the machine it runs on.

``Daemon.run`` reads as a list of who gets whom.  Start order: control socket (its lock says that we are the only
one), TUN device, underlay sockets, underlay monitor, login; addresses, routes and DNS follow from the first login.
Stop order is the reverse: DNS first, so that nobody is sent here any more, then a Leave to the cloud, the device
last, because its packets may still be on the way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cyphonic import __version__
from cyphonic.errors import CloudUnreachableError, NotEnrolledError, OperationalError, PeerUnreachableError
from cyphonic.lifecycle import Lifeline
from cyphonic.logs import pairs
from cyphonic.node.config import NodeConfig
from cyphonic.node.control import ControlServer, Reply
from cyphonic.node.datapath import Datapath, open_underlay
from cyphonic.node.dns import Dns
from cyphonic.node.interface import Interface
from cyphonic.node.loop import Loop, Timer
from cyphonic.node.pinging import Pinging
from cyphonic.node.portmap.client import PortMapping
from cyphonic.node.processor import has_aes
from cyphonic.node.report import address_text, report_cloud, report_drops, report_peer, unreachable_text
from cyphonic.node.statefile import KnownRelay, NodeState, StateFile
from cyphonic.node.status import Addresses, DatapathStatus, Progress, State, Status
from cyphonic.node.troubles import Troubles
from cyphonic.node.tun import Tun
from cyphonic.node.underlay import Underlay, UnderlayMonitor
from cyphonic.protocol.client import (
    ClientState,
    Cloud,
    CloudUnreachable,
    Identity,
    LoggedIn,
    LoginRefused,
    Registered,
    SelfRevoked,
    SignalingClient,
    VersionHinted,
)
from cyphonic.protocol.overlay import LookedUp, Overlay
from cyphonic.protocol.session import supported_suites
from cyphonic.wire.direction import RefusalReason
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.login import LoginOutcome

_log = logging.getLogger(__name__)

MEND_INTERVAL = 10.0
"""Seconds until what this machine did not let us do is tried again."""

IDENTITY_SHARED = "another machine logs in with this node's identity, and each takes the place of the other"
IDENTITY_SHARED_HINT = "if it is not yours: cyphonic admin node revoke NAME, and enrol this one anew"

REFUSALS = {
    LoginOutcome.ENROLMENT_KEY_UNKNOWN: "the cloud does not know this enrolment key",
    LoginOutcome.ENROLMENT_KEY_EXPIRED: "the enrolment key has expired",
    LoginOutcome.ENROLMENT_KEY_REVOKED: "the enrolment key has been revoked",
    LoginOutcome.ENROLMENT_KEY_USED: "the enrolment key has been used by another node",
    LoginOutcome.NAME_TAKEN: "another node has this name",
    LoginOutcome.NAME_INVALID: "the name is not usable (a-z, 0-9 and -, at most 63 characters)",
    LoginOutcome.NODE_REVOKED: "this node has been revoked",
    LoginOutcome.ADDRESSES_EXHAUSTED: "the cloud has no virtual address left",
    LoginOutcome.NOT_ENROLLED: "the cloud does not know this node",
}
_REFUSAL_HINT = (
    "ask the cloud's operator for a new bundle (cyphonic admin key create), then: cyphonic up --enrol FILE"
)
_NAME_HINT = "choose another: cyphonic up --enrol FILE --name NAME"

_STATES: dict[ClientState, State] = {
    ClientState.LOGGED_OUT: "starting",
    ClientState.LOGGING_IN: "logging-in",
    ClientState.REGISTERING: "registering",
    ClientState.REGISTERED: "joined",
    ClientState.REFUSED: "refused",
    ClientState.REVOKED: "refused",
    ClientState.LEFT: "leaving",
}


class Daemon:
    """One node, until it is told to stop."""

    def __init__(
        self,
        config: NodeConfig,
        state_file: StateFile,
        state: NodeState,
        *,
        enrolment_key: bytes = b"",
        environ: Mapping[str, str],
    ) -> None:
        self._config = config
        self._state_file = state_file
        self._state = state
        self._enrolment_key = enrolment_key
        self._lifeline = Lifeline(environ)
        self._loop = Loop()
        self._clock = self._loop.clock
        self._started = self._clock()
        self._registered_since: float | None = None
        self._error = ""
        self._troubles = Troubles()
        self._configured = False
        self._device_timer: Timer | None = None
        self._state_timer: Timer | None = None
        self._refusal: OperationalError | None = None
        self._lookups: dict[str, list[Callable[[LookedUp], None]]] = {}
        self._joining: list[Reply] = []
        self._forgetting: list[Reply] = []
        self._silences: set[str] = set()
        self._drops_before: Counter[str] = Counter()

        suites = supported_suites(has_aes())
        identity = Identity(state.key_pair, state.name, state.stamp)
        cloud = Cloud(
            state.cloud.as_key,
            state.cloud.as_verify_key,
            state.cloud.as_endpoints,
            state.cloud.region,
            state.cloud.domain,
        )
        self._client = SignalingClient(
            identity,
            cloud,
            os.urandom,
            suites=suites,
            software=f"cyphonic {__version__}",
            measures_relays=True,
        )
        self._overlay = Overlay(state.key_pair, self._client, os.urandom, suites)
        self._mapping = PortMapping(self._loop, self._describe)
        self._underlay = Underlay(frozenset(), (), ())

    def run(self) -> None:
        """Join and serve until SIGTERM, SIGINT or ``down``.  Raise OperationalError when that is impossible."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._loop.close)
            control = ControlServer(self._loop, self._config.run_dir, self._handlers(), group=self._config.group)
            stack.callback(control.close)
            control.start()
            self._tun = Tun.open(self._config.device)
            stack.callback(self._tun.close)
            sockets = open_underlay(self._config.listen_port)
            for udp in sockets.values():
                stack.callback(udp.close)
            self._ports = {family: udp.getsockname()[1] for family, udp in sockets.items()}
            self._datapath = Datapath(self._overlay, self._tun, sockets, self._clock, time.time, self._after)
            self._datapath.start(self._loop)
            stack.callback(self._datapath.stop, self._loop)
            self._dns = Dns(self._loop, self._config, self._tun.name, state_dir=self._state_file.path.parent)
            stack.callback(self._leave)
            stack.callback(self._mapping.close)
            stack.callback(self._dns.close)
            self._dns.start()
            monitor = UnderlayMonitor(
                self._loop, self._tun.name, self._underlay_changed, allow_loopback=self._config.allow_loopback
            )
            stack.callback(monitor.close)
            self._underlay_changed(monitor.start())
            self._login()
            stop = self._loop.stop
            with self._loop.signals({signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: lambda: None}):
                self._loop.run(self._overlay.next_deadline, self._timeout)
            self._lifeline.stopping()

    # Driving the core.

    def _login(self) -> None:
        self._overlay.log_in(self._clock(), time.time(), self._enrolment_key)
        self._after()

    def _timeout(self, now: float) -> None:
        self._overlay.handle_timeout(now, time.time())
        self._after()

    def _underlay_changed(self, underlay: Underlay) -> None:
        _log.info("underlay", extra=pairs(hosts=",".join(underlay.hosts) or "none"))
        self._underlay = underlay
        if self._config.port_mapping and socket.AF_INET in self._ports:
            self._mapping.follow(underlay, self._ports[socket.AF_INET])
        self._describe()

    def _describe(self) -> None:
        """Say to core and cloud where this node is; what the gateway maps to it stands first."""
        families = frozenset(self._underlay.families & self._ports.keys())
        mapped = [self._mapping.external] if self._mapping.external is not None else []
        self._overlay.set_underlay(families, [*mapped, *self._underlay.candidates(self._ports)], self._clock())
        self._after()

    def _after(self) -> None:
        """Perform what the core decided and take note of what it says."""
        self._save_stamp()
        self._datapath.flush()
        for event in self._overlay.events():
            if isinstance(event, LookedUp):
                self._looked_up(event)
            elif isinstance(event, LoggedIn):
                self._logged_in(event)
            elif isinstance(event, Registered):
                self._registered(event)
            elif isinstance(event, LoginRefused):
                self._refused(event)
            elif isinstance(event, SelfRevoked):
                self._revoked()
            elif isinstance(event, CloudUnreachable):
                self._cloud_unreachable(event)
            elif isinstance(event, VersionHinted):
                _log.warning(
                    "a frontend speaks another version: is a newer cyphonic out?",
                    extra=pairs(frontend=event.source),
                )
        self._datapath.flush()
        if self._forgetting and not self._client.registering:
            for reply in self._forgetting:
                reply.done()
            self._forgetting.clear()
        self._lifeline.set_ready(self._client.state is ClientState.REGISTERED, self._client.state.value)

    def _logged_in(self, event: LoggedIn) -> None:
        certificate = event.certificate
        self._enrolment_key = b""
        name = certificate.fqdn.partition(".")[0]
        if certificate.fqdn != self._state.fqdn:
            self._save(msgspec.structs.replace(self._state, name=name, fqdn=certificate.fqdn))
        self._configure(event)
        if event.alone:
            self._troubles.clear("identity")
        else:
            self._troubles.note("identity", OperationalError(IDENTITY_SHARED, IDENTITY_SHARED_HINT))
        self._dns.serve(self._state.cloud.zone, event.prefix, event.pool, self._look_up_name, self._look_up_address)
        _log.info("logged in", extra=pairs(name=certificate.fqdn, ipv6=address_text(certificate.virtual_ipv6)))

    def _configure(self, event: LoggedIn) -> None:
        """Set the device up.  The first time a failure ends the daemon; later what was set before still holds."""
        if self._device_timer is not None:
            self._device_timer.cancel()
        try:
            Interface(self._tun.name).configure(
                ipv6=event.certificate.virtual_ipv6,
                ipv4=event.certificate.virtual_ipv4,
                prefix=event.prefix,
                pool=event.pool,
                mtu=self._config.mtu,
            )
        except OperationalError as error:
            if not self._configured:
                raise
            self._troubles.note("device", error)
            self._device_timer = self._loop.call_later(MEND_INTERVAL, lambda: self._configure(event))
        else:
            self._configured = True
            self._troubles.clear("device")

    def _registered(self, event: Registered) -> None:
        if self._registered_since is None:
            self._registered_since = self._clock()
        self._error = ""
        self._silences.clear()
        _log.info("registered", extra=pairs(family=event.family.name, observed=event.observed))
        relays = tuple(
            KnownRelay(relay.public_key, tuple(map(Endpoint.decode, relay.endpoints))) for relay in event.relays
        )
        if relays and set(relays) != set(self._state.relays):  # none: the cloud does not know its own yet
            self._save(msgspec.structs.replace(self._state, relays=relays))
        for reply in self._joining:
            reply.done(self._progress())
        self._joining.clear()

    def _cloud_unreachable(self, event: CloudUnreachable) -> None:
        drops = self._datapath.drops
        text = unreachable_text(event, self._client, drops - self._drops_before)
        self._drops_before = Counter(drops)
        if text not in self._silences:
            _log.warning(text)
        self._silences.add(text)
        self._error = text
        if not self._client.leases:
            self._registered_since = None

    def _revoked(self) -> None:
        self._error = REFUSALS[LoginOutcome.NODE_REVOKED]
        self._save(msgspec.structs.replace(self._state, revoked=True))
        self._refuse(NotEnrolledError(self._error, _REFUSAL_HINT))

    def _refused(self, event: LoginRefused) -> None:
        if event.outcome is LoginOutcome.NODE_REVOKED:
            self._revoked()
            return
        text = REFUSALS[event.outcome]
        name = event.outcome in (LoginOutcome.NAME_TAKEN, LoginOutcome.NAME_INVALID)
        self._error = text
        self._refuse(NotEnrolledError(text, _NAME_HINT if name else _REFUSAL_HINT))

    def _refuse(self, error: OperationalError) -> None:
        _log.error(error.message)
        self._refusal = error
        self._registered_since = None
        for reply in self._joining:
            reply.fail(error)
        self._joining.clear()

    def _save_stamp(self) -> None:
        """Before the login that bears it is on the wire: the next process must go on from there."""
        if self._client.last_stamp > self._state.stamp:
            self._save(msgspec.structs.replace(self._state, stamp=self._client.last_stamp))

    def _save(self, state: NodeState) -> None:
        """Keep it.  Before the first login a failure ends the daemon; later, tunnels matter more than the file."""
        self._state = state
        if self._state_timer is not None:
            self._state_timer.cancel()
        try:
            self._state_file.save(state)
        except OperationalError as error:
            if not self._state.fqdn:
                raise
            self._troubles.note("state", error)
            self._state_timer = self._loop.call_later(MEND_INTERVAL, lambda: self._save(self._state))
        else:
            self._troubles.clear("state")

    def _leave(self) -> None:
        self._overlay.close(self._clock())
        self._datapath.flush()
        _log.info("left")

    # Look-ups.

    def _look_up_name(self, fqdn: str, done: Callable[[LookedUp], None]) -> None:
        if self._refusal is not None:
            done(LookedUp(fqdn, reachable=False))
            return
        self._waiting(fqdn, done, self._overlay.look_up(fqdn, self._clock()))

    def _look_up_address(self, address: bytes, done: Callable[[LookedUp], None]) -> None:
        if self._refusal is not None:
            done(LookedUp(address.hex(), reachable=False))
            return
        self._waiting(address.hex(), done, self._overlay.look_up_address(address, self._clock()))

    def _waiting(self, target: str, done: Callable[[LookedUp], None], answer: LookedUp | None) -> None:
        if answer is None:
            self._lookups.setdefault(target, []).append(done)
        self._after()
        if answer is not None:
            done(answer)

    def _looked_up(self, answer: LookedUp) -> None:
        for done in self._lookups.pop(answer.target, ()):
            done(answer)

    # The control socket.

    def _handlers(self) -> dict[str, Callable[[dict[str, Any], Reply], None]]:
        return {
            "status": self._status,
            "wait": self._wait,
            "ping": self._ping,
            "ip": self._ip,
            "forget": self._forget,
            "down": self._down,
        }

    def _status(self, _: dict[str, Any], reply: Reply) -> None:
        offset = time.time() - self._clock()
        certificate = self._overlay.certificate
        peers = sorted(self._overlay.peers, key=lambda peer: peer.certificate.fqdn)
        reply.done(
            Status(
                state=self._state_name(),
                name=self._state.name,
                fqdn=self._state.fqdn,
                ipv6=address_text(certificate.virtual_ipv6) if certificate else "",
                ipv4=address_text(certificate.virtual_ipv4) if certificate else "",
                device=self._tun.name,
                mtu=self._config.mtu,
                dns=self._dns.status(),
                cloud=report_cloud(
                    self._client,
                    self._state.cloud.region,
                    self._state.cloud.domain,
                    None if self._registered_since is None else self._registered_since + offset,
                    self._error,
                    offset,
                    self._mapping.text,
                ),
                datapath=DatapathStatus(name=self._datapath.name, mtu=self._config.mtu),
                peers=[report_peer(peer, offset) for peer in peers],
                drops=report_drops(self._overlay.drops, self._client.drops, self._datapath.drops),
                software=f"cyphonic {__version__}",
                pid=os.getpid(),
                since=self._started + offset,
                troubles=self._troubles.texts,
            )
        )

    def _state_name(self) -> State:
        state = _STATES[self._client.state]
        if self._error and state in ("logging-in", "registering"):
            return "cloud-unreachable"
        return state

    def _progress(self) -> Progress:
        return Progress(self._state_name(), self._error)

    def _wait(self, _: dict[str, Any], reply: Reply) -> None:
        """Answered once the node is joined, or refused; what happens until then comes as lines."""
        if self._refusal is not None:
            raise self._refusal
        if self._client.state is ClientState.REGISTERED:
            reply.done(self._progress())
            return
        self._joining.append(reply)
        reply.on_close(lambda: self._joining.remove(reply))
        self._tell_progress(reply)

    def _tell_progress(self, reply: Reply) -> None:
        if not reply.closed and reply in self._joining:
            reply.line(self._progress())
            self._loop.call_later(0.5, lambda: self._tell_progress(reply))

    def _ping(self, arguments: dict[str, Any], reply: Reply) -> None:
        count = arguments.get("count", 1)
        if not isinstance(count, int) or not 0 < count <= 1_000_000:
            raise OperationalError("the count is not a number from 1 to 1,000,000")
        fqdn = self._fqdn(arguments)

        def found(answer: LookedUp) -> None:
            peer = self._overlay.peer(fqdn)
            if peer is None and fqdn == self._state.fqdn:
                reply.fail(OperationalError(f"{fqdn} is this node itself"))
            elif peer is None:
                reply.fail(self._refusal or _unreachable(fqdn, answer))
            else:
                Pinging(self._loop, self._overlay, self._datapath.flush, peer, count, reply).start()

        self._look_up_name(fqdn, found)

    def _ip(self, arguments: dict[str, Any], reply: Reply) -> None:
        fqdn = self._fqdn(arguments) if arguments.get("name") else self._state.fqdn

        def found(answer: LookedUp) -> None:
            if answer.virtual_ipv6:
                reply.done(Addresses(fqdn, address_text(answer.virtual_ipv6), address_text(answer.virtual_ipv4)))
            else:
                reply.fail(self._refusal or _unreachable(fqdn, answer))

        self._look_up_name(fqdn, found)

    def _forget(self, arguments: dict[str, Any], reply: Reply) -> None:
        """Drop one peer, or all, and tell the cloud anew where this node is: the next packet makes a cold start.

        Answered once the cloud has answered: a NAT that has forgotten everything lets it through again.
        """
        wanted = self._fqdn(arguments) if arguments.get("name") else None
        for peer in self._overlay.peers:
            if wanted in (None, peer.certificate.fqdn):
                self._overlay.forget(peer)
        self._client.reattach(self._clock())
        self._forgetting.append(reply)
        self._after()

    def _down(self, _: dict[str, Any], reply: Reply) -> None:
        reply.done()
        self._loop.call_soon(self._loop.stop)

    def _fqdn(self, arguments: dict[str, Any]) -> str:
        name = arguments.get("name")
        if not isinstance(name, str) or not name or len(name) > 128:
            raise OperationalError("no name is given", "say which node, such as: cyphonic ping bob")
        name = name.rstrip(".").lower()
        return name if "." in name else f"{name}.{self._state.cloud.zone}"


def _unreachable(fqdn: str, answer: LookedUp) -> OperationalError:
    if not answer.reachable:
        return CloudUnreachableError("the cloud does not answer", "'cyphonic status' says what is wrong")
    if answer.reason is RefusalReason.UNKNOWN_NAME:
        return PeerUnreachableError(f"there is no node {fqdn}", "'cyphonic admin node list' shows all names")
    if answer.reason is RefusalReason.OFFLINE:
        return PeerUnreachableError(f"{fqdn} is offline", "it registers when 'cyphonic up' runs there")
    return PeerUnreachableError(f"{fqdn} cannot be reached")
