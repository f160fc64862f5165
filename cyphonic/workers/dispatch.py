"""From a batch of jobs to what it causes: all conversations of a batch step through Redis together.

Each round, the commands of every conversation that still runs go out as one round trip; no conversation needs
more than three.  A message that is dropped, or fails, spoils no other of its batch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyphonic.errors import DropError, MalformedError, NotAllowedError
from cyphonic.protocol.chance import Chance
from cyphonic.site import Site
from cyphonic.state.fleet import Fleet
from cyphonic.state.store import Store
from cyphonic.state.vault import Vault
from cyphonic.wire.header import INTERNAL, MessageType, SignalingHeader
from cyphonic.wire.hint import encode_hint
from cyphonic.wire.job import JOB_SERVICE, Job, Origin, Send, Service
from cyphonic.workers import authentication, direction, registration, revocation
from cyphonic.workers.setting import (
    AddressPool,
    Commands,
    Conversation,
    Handler,
    HintBudget,
    HintedDropError,
    Reply,
    ServiceKeys,
    Setting,
    authentication_keys,
    management_keys,
)

HANDLERS: dict[MessageType, Handler] = {
    MessageType.LOGIN_REQUEST: authentication.log_in,
    MessageType.KEY_DISTRIBUTION: registration.distribute_key,
    MessageType.KEY_DISTRIBUTION_ACK: authentication.finish_login,
    MessageType.REGISTRATION_REQUEST: registration.register,
    MessageType.KEEP_ALIVE: registration.keep_alive,
    MessageType.LEAVE: registration.leave,
    MessageType.DIRECTION_REQUEST: direction.direct,
    MessageType.ROUTE_DIRECTION_CONFIRMATION: direction.confirm,
    MessageType.REVOCATION_ORDER: revocation.push,
    MessageType.PATH_REVOCATION_ACK: revocation.acknowledge,
}

_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a batch causes."""

    sends: list[Send] = field(default_factory=list)
    forwards: list[bytes] = field(default_factory=list)
    """Jobs for another service; a frontend routes each by its type, with origin PIPELINE."""
    handled: Counter[MessageType] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    """By reason."""


@dataclass
class _Running:
    """A conversation and what it waits for."""

    job: Job
    header: SignalingHeader
    conversation: Conversation
    commands: Commands


class Dispatcher:
    """Handles batches for some services.  Belongs to one thread, and keeps nothing but a budget of hints."""

    def __init__(self, services: Collection[Service], keys: ServiceKeys, site: Site, chance: Chance) -> None:
        self._services = frozenset(services)
        self._site = site
        self._pool = AddressPool.of(site)
        self._authentication = authentication_keys(keys) if Service.AS in self._services else None
        self._management = management_keys(keys) if Service.NMS in self._services else None
        if (Service.AS in self._services) != (self._authentication is not None):
            raise ValueError("the AS cannot be served without its keys")
        if (Service.NMS in self._services) != (self._management is not None):
            raise ValueError("the NMS cannot be served without its key")
        self._vault = Vault(keys.state_key, chance)
        self._chance = chance
        self._hints = HintBudget()

    def handle(self, jobs: Sequence[Job], store: Store, wall: float, fleet: Fleet) -> Outcome:
        """Work through a batch.  ``wall``: unix seconds.  Raise StoreUnavailableError: then nothing may be sent."""
        setting = Setting(
            self._site, self._pool, self._authentication, self._management, self._vault, self._chance, wall, fleet
        )
        outcome = Outcome()
        running = [started for job in jobs if (started := self._start(setting, job, outcome)) is not None]
        while running:
            commands = [command for one in running for command in one.commands]
            results = store.round_trip(commands)
            position = 0
            still_running = []
            for one in running:
                end = position + len(one.commands)
                if self._step(one, results[position:end], wall, outcome):
                    still_running.append(one)
                position = end
            running = still_running
        return outcome

    def revocation_orders(self, node_ids: Sequence[bytes]) -> list[Job]:
        """Jobs that push the revocation of these nodes; none when the NMS is not served here."""
        if self._management is None:
            return []
        return [revocation.order(self._management, node_id, self._chance) for node_id in node_ids]

    def _start(self, setting: Setting, job: Job, outcome: Outcome) -> _Running | None:
        try:
            header = SignalingHeader.decode(job.datagram)
            handler = self._handler(header.type, job.origin)
        except DropError as drop:
            outcome.drops[drop.reason] += 1
            return None
        started = _Running(job, header, handler(setting, job, header), [])
        return started if self._step(started, None, setting.wall, outcome) else None

    def _handler(self, message_type: MessageType, origin: int) -> Handler:
        handler = HANDLERS.get(message_type)
        if handler is None:
            raise MalformedError("unexpected_type")
        # An internal message that came by UDP was made by a stranger.
        if (message_type in INTERNAL) != (origin == Origin.PIPELINE):
            raise NotAllowedError("wrong_origin")
        if JOB_SERVICE[message_type] not in self._services:
            raise NotAllowedError("not_served")
        return handler

    def _step(self, one: _Running, values: list[Any] | None, wall: float, outcome: Outcome) -> bool:
        """Let a conversation go on until its next commands; False when it has ended."""
        try:
            if values is None:
                one.commands = next(one.conversation)
            else:
                _raise_refused(values)
                one.commands = one.conversation.send(values)
        except StopIteration as stop:
            reply: Reply = stop.value
            outcome.sends.extend(reply.sends)
            outcome.forwards.extend(reply.forwards)
            outcome.handled[one.header.type] += 1
            return False
        except DropError as drop:
            outcome.drops[drop.reason] += 1
            if isinstance(drop, HintedDropError) and self._hints.take(wall):
                outcome.sends.append(Send(encode_hint(MessageType.KEY_UNKNOWN, one.header), one.job.route))
            return False
        except Exception:  # noqa: BLE001 - one bad message never spoils its batch
            # A bug here, or a command that Redis refuses.
            _log.exception("a %s failed", one.header.type.name)
            outcome.drops["failed"] += 1
            return False
        return True


def _raise_refused(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, Exception):
            raise value
