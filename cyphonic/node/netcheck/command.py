"""From configuration to a result: whom to ask, and what the daemon knows."""

from __future__ import annotations

from typing import NamedTuple

from cyphonic.errors import NotEnrolledError
from cyphonic.node.config import NodeConfig
from cyphonic.node.control import ControlClient, NotUpError
from cyphonic.node.netcheck.check import Tell, run_netcheck
from cyphonic.node.netcheck.prober import Relay
from cyphonic.node.netcheck.report import Netcheck
from cyphonic.node.statefile import StateFile
from cyphonic.node.status import Status, read_document
from cyphonic.node.underlay import read_underlay
from cyphonic.protocol.keys import decode_key
from cyphonic.wire.endpoint import Endpoint


class _Known(NamedTuple):
    relays: list[Relay]
    daemon: bool
    registered: bool
    mapped: str


def netcheck(config: NodeConfig, tell: Tell) -> Netcheck:
    """Raise OperationalError without permission to ask the daemon or to read the state, or before the first up."""
    known = _ask_daemon(config) or _read_state(config)
    underlay = read_underlay(config.device, allow_loopback=config.allow_loopback)
    return run_netcheck(
        known.relays,
        underlay,
        daemon=known.daemon,
        mapped=known.mapped,
        registered=known.registered,
        tell=tell,
    )


def _ask_daemon(config: NodeConfig) -> _Known | None:
    try:
        status = read_document(ControlClient(config.run_dir).call("status"), Status)
    except NotUpError:
        return None
    relays = [
        Relay.of(Endpoint.parse(endpoint), decode_key(relay.public_key))
        for relay in status.cloud.relays
        for endpoint in relay.endpoints
    ]
    if not relays:  # not registered in this life
        relays = _read_state(config).relays
    return _Known(relays, True, status.state == "joined", status.cloud.port_mapping)


def _read_state(config: NodeConfig) -> _Known:
    state = StateFile(config.state_dir).load()
    if state is None:
        raise NotEnrolledError(
            "this machine has not joined an overlay yet, so it knows no relays to ask",
            "join first: sudo cyphonic up --enrol FILE",
        )
    relays = [Relay.of(endpoint, relay.public_key) for relay in state.relays for endpoint in relay.endpoints]
    return _Known(relays, False, False, "")
