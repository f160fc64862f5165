"""Direction at the NMS: DirectionRequest, then RouteDirectionConfirmation.

The request decides everything (route, path ID, path key, relays) and saves it; the responder is told first.  Its
confirmation, at whichever worker, closes the transaction; then the initiator is told the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

import msgspec

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.limits import PATH_KEY_LIFETIME, REQUEST_MAX_AGE, REQUEST_MAX_LEAD, TOKEN_LIFETIME
from cyphonic.protocol.relay_choice import RoundTrips, relay_cost
from cyphonic.protocol.route import Whereabouts, decide_route
from cyphonic.protocol.signaling import seal_signaling
from cyphonic.protocol.token import seal_token
from cyphonic.state import keys, transactions
from cyphonic.state.fleet import Fleet, RelayMember
from cyphonic.state.leases import FAMILIES, Lease, family_of, read_lease
from cyphonic.state.registry import read_node
from cyphonic.state.store import ScriptCall
from cyphonic.state.transactions import ClosedDirection, Direction, Target
from cyphonic.wire.codec import Body, Identifier, Key, UInt8, UInt32, decode, encode
from cyphonic.wire.direction import (
    DirectionRefused,
    DirectionRequest,
    RefusalReason,
    RelayGrant,
    Role,
    RouteDirection,
    RouteDirectionConfirmation,
)
from cyphonic.wire.header import (
    MAX_CONTROL_DATAGRAM,
    MIN_SEALED_LENGTH,
    MessageType,
    SignalingHeader,
)
from cyphonic.wire.job import Job, Route, Send
from cyphonic.wire.registration import MAX_CANDIDATES, RelayAddress
from cyphonic.wire.relay import RelayToken
from cyphonic.workers.sender import Sender, current_key, open_common_key, open_from_node
from cyphonic.workers.setting import Conversation, ManagementKeys, Reply, Setting, source

RELAYS_PER_PATH = 2
MAX_ROUTE_DIRECTION_BODY = MAX_CONTROL_DATAGRAM - MIN_SEALED_LENGTH
_NO_HANDLE = bytes(16)


class End(Body, frozen=True):
    """What a path's peer is told of one end."""

    node_id: Identifier
    certificate: bytes
    candidates: list[bytes]
    families: Annotated[list[UInt8], msgspec.Meta(max_length=2)]
    """4 and 6: where the cloud sees it."""


class SavedDirection(Body, frozen=True):
    """A direction's outcome, as the State Database holds it (sealed)."""

    transaction_id: Identifier
    common_key: Key
    """The initiator's, under which it asked and is answered."""
    key_number: UInt32
    path_id: Identifier
    path_key: Key
    first_path: UInt8
    relays: list[RelayAddress]
    initiator: End
    responder: End


def direct(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """DirectionRequest: open the transaction, tell the responder; a duplicate hears what is awaited again."""
    node_id, transaction_id = header.node_id, header.transaction_id
    record, ipv4, ipv6, handle = yield [
        read_node(node_id),
        read_lease(4, node_id),
        read_lease(6, node_id),
        transactions.find_transaction(node_id, transaction_id),
    ]
    sender, body = open_from_node(setting, job, header, record, DirectionRequest)
    promotion = sender.promotion(setting.wall)
    if handle is not None:
        values, *_ = yield [transactions.resume_direction(handle, node_id, job.route), *promotion]
        direction, responder = transactions.parse_resumed(handle, values)
        refusal = None if direction.done else _refusal(setting, sender, responder)
        if refusal is not None:
            return Reply([sender.answer(setting, MessageType.DIRECTION_REFUSED, job, header, refusal)])
        return _say_again(setting, job.route, direction, responder)
    if not -REQUEST_MAX_AGE <= body.time / 1000 - setting.wall <= REQUEST_MAX_LEAD:
        refused = DirectionRefused(RefusalReason.STALE, time=setting.time)
        yield [*promotion]
        return Reply([sender.answer(setting, MessageType.DIRECTION_REFUSED, job, header, refused)])
    values, *_ = yield [_find(body), *promotion]
    target = Target.parse(values)
    refusal = _refusal(setting, sender, target)
    if refusal is not None or target is None:
        refused = refusal or DirectionRefused(RefusalReason.UNKNOWN_NAME)
        return Reply([sender.answer(setting, MessageType.DIRECTION_REFUSED, job, header, refused)])
    leases = [Lease.parse(ipv4), Lease.parse(ipv6)]
    initiator = _whereabouts(setting.wall, leases, job.route)
    saved = _decide(setting, sender, transaction_id, initiator, _measured(setting.wall, leases), target)
    handle = setting.chance(16)
    (values,) = yield [
        transactions.open_direction(
            initiator=node_id,
            transaction_id=transaction_id,
            handle=handle,
            responder=target.record.node_id,
            route=job.route,
            saved=setting.vault.seal(keys.nms_direction(handle), encode(saved)),
        )
    ]
    return _say_again(setting, job.route, transactions.parse_opened(values), target)


def confirm(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """RouteDirectionConfirmation: the responder is ready; tell the initiator, by the route it last asked by."""
    (values,) = yield [read_node(header.node_id)]
    sender, body = open_from_node(setting, job, header, values, RouteDirectionConfirmation)
    close = transactions.close_direction(body.handle, header.node_id, setting.wall)
    values, *_ = yield [close, *sender.promotion(setting.wall)]
    closed = ClosedDirection.parse(values)
    return Reply([_to_initiator(setting, closed.route, _open(setting, body.handle, closed.saved))])


# The request.


def _find(body: DirectionRequest) -> ScriptCall:
    if body.fqdn:
        return transactions.find_by_name(body.fqdn.rstrip(".").lower())
    return transactions.find_by_address(body.address)


def _refusal(setting: Setting, sender: Sender, target: Target | None) -> DirectionRefused | None:
    """None when a path may be made.  Raise NotAllowedError("no_certificate") for a sender that never registered."""
    if target is None or target.record.revoked or target.record.node_id == sender.record.node_id:
        return DirectionRefused(RefusalReason.UNKNOWN_NAME, time=setting.time)
    record = target.record
    reachable = _service_route(target, setting.wall) is not None
    if not reachable or record.current is None or record.certificate_expires <= setting.wall:
        return DirectionRefused(
            RefusalReason.OFFLINE, record.fqdn, record.virtual_ipv6, record.virtual_ipv4, setting.time
        )
    if sender.record.certificate_expires <= setting.wall:
        raise NotAllowedError("no_certificate")
    return None


def _whereabouts(wall: float, leases: Sequence[Lease | None], route: Route | None) -> Whereabouts:
    """From live leases; a request's own source is newer than what the lease of that family says.

    A lease of a family in which the node names no address any more has been left behind: the node has moved.
    """
    live = [lease for lease in leases if lease is not None and lease.live(wall)]
    newest = max(live, key=lambda lease: lease.refreshed, default=None)
    candidates = newest.candidates if newest is not None else []
    named = {family_of(candidate) for candidate in candidates}
    if newest is not None and 0 < len(candidates) < MAX_CANDIDATES:
        live = [lease for lease in live if lease is newest or family_of(lease.observed) in named]
    observed = {family_of(lease.observed): lease.observed for lease in live}
    if route is not None:
        asked_from = source(route)
        observed[family_of(asked_from)] = asked_from
    return Whereabouts(observed, candidates)


def _measured(wall: float, leases: Sequence[Lease | None]) -> RoundTrips:
    """What the node reported last."""
    live = [lease for lease in leases if lease is not None and lease.live(wall)]
    return max(live, key=lambda lease: lease.refreshed).round_trips if live else {}


def _decide(
    setting: Setting,
    sender: Sender,
    transaction_id: bytes,
    initiator: Whereabouts,
    measured: RoundTrips,
    target: Target,
) -> SavedDirection:
    leases = [target.leases.get(family) for family in FAMILIES]
    responder = _whereabouts(setting.wall, leases, None)
    round_trips = measured, _measured(setting.wall, leases)
    return SavedDirection(
        transaction_id=transaction_id,
        common_key=sender.common_key,
        key_number=sender.key_number,
        path_id=setting.chance(16),
        path_key=setting.chance(32),
        first_path=decide_route(initiator, responder),
        relays=_choose_relays(setting.fleet, (initiator, responder), round_trips),
        initiator=_end(sender.record.node_id, sender.record.certificate, initiator, responder),
        responder=_end(target.record.node_id, target.record.certificate, responder, initiator),
    )


def _end(node_id: bytes, certificate: bytes, whereabouts: Whereabouts, peer: Whereabouts) -> End:
    candidates = [endpoint.encode() for endpoint in whereabouts.paths(peer)]
    return End(node_id, certificate, candidates, sorted(whereabouts.observed))


def _choose_relays(
    fleet: Fleet, ends: Sequence[Whereabouts], round_trips: Sequence[RoundTrips]
) -> list[RelayAddress]:
    """The shortest ways between the ends, of all relays that both can reach; both get grants for the same ones."""

    def reachable(relay: RelayMember) -> bool:
        families = {family_of(endpoint) for endpoint in relay.endpoints}
        return all(families & end.observed.keys() for end in ends)

    def cost(relay: RelayMember) -> float:
        return relay_cost(relay.endpoints, relay.load, round_trips)

    chosen = sorted(filter(reachable, fleet.relays), key=cost)[:RELAYS_PER_PATH]
    return [
        RelayAddress(relay.public_key, [endpoint.encode() for endpoint in relay.endpoints[:4]]) for relay in chosen
    ]


# Telling the two ends.


def _say_again(setting: Setting, route: Route, direction: Direction, responder: Target | None) -> Reply:
    """The message that is awaited: to the responder while pending, to the initiator once done."""
    saved = _open(setting, direction.handle, direction.saved)
    if direction.done:
        return Reply([_to_initiator(setting, route, saved)])
    if responder is None or responder.record.revoked:
        raise NotAllowedError("responder_gone")
    return Reply([_to_responder(setting, direction.handle, responder, saved)])


def _open(setting: Setting, handle: bytes, saved: bytes) -> SavedDirection:
    return decode(setting.vault.open(keys.nms_direction(handle), saved), SavedDirection)


def _to_responder(setting: Setting, handle: bytes, responder: Target, saved: SavedDirection) -> Send:
    route = _service_route(responder, setting.wall)
    if route is None:
        raise NotAllowedError("responder_gone")
    record = responder.record
    common_key = current_key(record, setting.wall)
    header = SignalingHeader(MessageType.ROUTE_DIRECTION, common_key.number, record.node_id, handle)
    body = _route_direction(setting, saved, Role.RESPONDER, handle)
    sealed = seal_signaling(header, body, open_common_key(setting, record, common_key), setting.chance)
    return Send(sealed, route)


def _to_initiator(setting: Setting, route: Route, saved: SavedDirection) -> Send:
    header = SignalingHeader(
        MessageType.ROUTE_DIRECTION, saved.key_number, saved.initiator.node_id, saved.transaction_id
    )
    body = _route_direction(setting, saved, Role.INITIATOR, _NO_HANDLE)
    return Send(seal_signaling(header, body, saved.common_key, setting.chance), route)


def _service_route(target: Target, wall: float) -> Route | None:
    """Through the endpoint at which the node last showed that it lives."""
    live = [lease for lease in target.leases.values() if lease.live(wall)]
    if not live:
        return None
    lease = max(live, key=lambda one: one.refreshed)
    return Route(*lease.service, *lease.observed)


def _route_direction(setting: Setting, saved: SavedDirection, role: Role, handle: bytes) -> RouteDirection:
    own, peer = saved.initiator, saved.responder
    if role is Role.RESPONDER:
        own, peer = peer, own
    body = RouteDirection(
        handle=handle,
        path_id=saved.path_id,
        role=role,
        first_path=saved.first_path,
        certificate=peer.certificate,
        candidates=peer.candidates,
        path_key=saved.path_key,
        path_lifetime=PATH_KEY_LIFETIME,
        relays=[_grant(setting, saved.path_id, role, relay, own.families) for relay in saved.relays],
        time=setting.time,
    )
    return _shortened(body)


def _shortened(body: RouteDirection) -> RouteDirection:
    """Within 1,200 bytes: the second relay goes first, then the last candidates."""
    while len(encode(body)) > MAX_ROUTE_DIRECTION_BODY:
        if len(body.relays) > 1:
            body = msgspec.structs.replace(body, relays=body.relays[:1])
        elif body.candidates:
            body = msgspec.structs.replace(body, candidates=body.candidates[:-1])
        else:
            break
    return body


def _grant(
    setting: Setting, path_id: bytes, role: Role, relay: RelayAddress, families: Sequence[int]
) -> RelayGrant:
    own = _keys(setting)
    bind_key = hashlib.blake2b(
        path_id + bytes([role]) + relay.public_key, key=own.bind_secret, digest_size=32
    ).digest()
    token = RelayToken(path_id, role, bind_key, int(setting.wall) + TOKEN_LIFETIME, 0)
    # Those of a family that the node has come first; the others stay, it may move.
    endpoints = sorted(relay.endpoints, key=lambda encoded: (4 if len(encoded) == 6 else 6) not in families)
    sealed = seal_token(token, own.own, relay.public_key, setting.chance)
    return RelayGrant(relay.public_key, endpoints, sealed, bind_key)


def _keys(setting: Setting) -> ManagementKeys:
    assert setting.management is not None  # the dispatcher sends this service's jobs only
    return setting.management
