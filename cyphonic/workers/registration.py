"""At the NMS: key distribution (a node may join), then its registration, keepalives and leave."""

from __future__ import annotations

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.certificate import check_certificate, read_certificate
from cyphonic.protocol.distribution import open_distribution, seal_distribution
from cyphonic.protocol.limits import KEEPALIVE_INTERVAL, LEASE
from cyphonic.protocol.route import usable_candidates
from cyphonic.state import leases
from cyphonic.state.leases import MoveResult
from cyphonic.state.registry import CommonKey, NodeRecord, read_node, sealed_key_place
from cyphonic.state.transactions import (
    IPV4_TRIES,
    TRIES,
    Admission,
    admit_node,
    common_key_expiry,
    promote_key,
)
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.header import IDENTIFIER_LENGTH, NO_NODE, MessageType, SignalingHeader
from cyphonic.wire.job import Job
from cyphonic.wire.login import KeyDistribution, KeyDistributionAck
from cyphonic.wire.registration import (
    KeepAlive,
    KeepAliveAck,
    Leave,
    MeasuredRegistration,
    RegistrationResponse,
    RelayAddress,
)
from cyphonic.workers.sender import open_from_node
from cyphonic.workers.setting import Conversation, ManagementKeys, Reply, Setting, service, source

RELAYS_TOLD = 4
_INTERFACE_LENGTH = 10


def distribute_key(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """KeyDistribution: allocate node ID and addresses once, keep the common key as the next one, acknowledge."""
    own = _keys(setting)
    _, body = open_distribution(job.datagram, own.own, own.as_public)
    assert isinstance(body, KeyDistribution)
    chance, pool = setting.chance, setting.pool
    sealed = setting.vault.seal(sealed_key_place(body.static_key, body.key_number), body.common_key)
    (values,) = yield [
        admit_node(
            static_key=body.static_key,
            fqdn=body.fqdn,
            common_key=CommonKey(body.key_number, common_key_expiry(setting.wall), sealed),
            generation=body.generation,
            wall=setting.wall,
            node_ids=chance(TRIES * IDENTIFIER_LENGTH),
            ipv6_addresses=b"".join(pool.prefix_ipv6 + chance(_INTERFACE_LENGTH) for _ in range(TRIES)),
            pool_first=pool.first_ipv4,
            pool_size=pool.size_ipv4,
            offsets=chance(IPV4_TRIES * 4),
        )
    ]
    admission = Admission.parse(values)
    ack = KeyDistributionAck(
        static_key=body.static_key,
        key_number=body.key_number,
        outcome=admission.outcome,
        node_id=admission.node_id or NO_NODE,
        virtual_ipv6=admission.virtual_ipv6,
        virtual_ipv4=admission.virtual_ipv4,
    )
    kind = MessageType.KEY_DISTRIBUTION_ACK
    return Reply(
        forwards=[seal_distribution(kind, header.transaction_id, ack, own.own, own.as_public, setting.chance)]
    )


def register(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """RegistrationRequest: make or move the lease of the family it came by."""
    (values,) = yield [read_node(header.node_id)]
    sender, body = open_from_node(setting, job, header, values, MeasuredRegistration)
    candidates = usable_candidates(body.candidates, allow_loopback=setting.site.allow_loopback)
    observed = source(job.route)
    certificate = _new_certificate(setting, sender.record, body.certificate)
    writes = [
        leases.register(
            header.node_id,
            sender.key_number,
            body.counter,
            observed,
            service(job.route),
            candidates,
            body.capabilities,
            setting.wall,
            {Endpoint.decode(one.endpoint): one.milliseconds for one in body.relays},
        )
    ]
    if certificate is not None:
        writes.append(
            promote_key(header.node_id, sender.key_number, setting.wall, body.certificate, certificate.expires)
        )
    elif sender.uses_next:
        writes.append(promote_key(header.node_id, sender.key_number, setting.wall))
    results = yield [*writes]
    move = MoveResult.parse(results[0])
    if move.observed is None:
        raise NotAllowedError("stale_counter")
    response = RegistrationResponse(
        observed=move.observed.encode(),
        virtual_ipv6=sender.record.virtual_ipv6,
        virtual_ipv4=sender.record.virtual_ipv4,
        keepalive_interval=KEEPALIVE_INTERVAL,
        lease=LEASE,
        time=setting.time,
        nms_endpoints=setting.nms_endpoints(),
        relays=_relays(setting),
    )
    return Reply([sender.answer(setting, MessageType.REGISTRATION_RESPONSE, job, header, response)])


def keep_alive(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """KeepAlive: refresh the lease, move it when its node has moved, or say that there is none."""
    (values,) = yield [read_node(header.node_id)]
    sender, body = open_from_node(setting, job, header, values, KeepAlive)
    observed = source(job.route)
    refresh = leases.refresh(
        header.node_id, sender.key_number, body.counter, observed, service(job.route), setting.wall
    )
    results = yield [refresh, *sender.promotion(setting.wall)]
    move = MoveResult.parse(results[0])
    if move.observed is None:
        raise NotAllowedError("stale_counter")
    ack = KeepAliveAck(move.observed.encode(), move.status != "missing", setting.time)
    return Reply([sender.answer(setting, MessageType.KEEP_ALIVE_ACK, job, header, ack)])


def leave(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """Leave: end the node's leases; nothing is answered."""
    (values,) = yield [read_node(header.node_id)]
    sender, body = open_from_node(setting, job, header, values, Leave)
    end = leases.end(header.node_id, sender.key_number, body.counter)
    results = yield [end, *sender.promotion(setting.wall)]
    if not results[0]:
        raise NotAllowedError("stale_counter")
    return Reply()


def _keys(setting: Setting) -> ManagementKeys:
    assert setting.management is not None  # the dispatcher sends this service's jobs only
    return setting.management


def _new_certificate(setting: Setting, record: NodeRecord, data: bytes) -> Certificate | None:
    """The certificate when it is to replace the stored one.  Raise DropError when it is not the sender's."""
    if data == record.certificate:
        return None
    certificate = read_certificate(data, _keys(setting).as_verify_key)
    if (certificate.node_id, certificate.static_key) != (record.node_id, record.static_key):
        raise NotAllowedError("foreign_certificate")
    check_certificate(certificate, setting.wall, record.generation)
    return certificate if certificate.expires > record.certificate_expires else None


def _relays(setting: Setting) -> list[RelayAddress]:
    """The idlest, by tenths: nodes measure what they are told, so it should stay the same while it can."""
    idlest = sorted(setting.fleet.relays, key=lambda relay: (round(relay.load, 1), relay.instance))[:RELAYS_TOLD]
    return [
        RelayAddress(relay.public_key, [endpoint.encode() for endpoint in relay.endpoints[:4]]) for relay in idlest
    ]
