"""Revocation at the NMS: tell a revoked node and its live peers, until each has acknowledged."""

from __future__ import annotations

from contextlib import suppress

from cyphonic.errors import DropError, NotAllowedError
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.distribution import open_distribution, seal_distribution
from cyphonic.protocol.signaling import seal_signaling
from cyphonic.state import keys
from cyphonic.state.leases import FAMILIES, Lease, read_lease
from cyphonic.state.registry import NodeRecord, read_node
from cyphonic.state.store import Command
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.job import Job, Origin, Route, Send
from cyphonic.wire.revocation import PathRevocation, PathRevocationAck, RevocationOrder
from cyphonic.workers.sender import current_key, open_common_key, open_from_node
from cyphonic.workers.setting import Conversation, ManagementKeys, Reply, Setting

READ_AT_ONCE = 256
"""Nodes looked up in one round trip."""
_NOWHERE = Route("", 0, "", 0)


def order(own: ManagementKeys, node_id: bytes, chance: Chance) -> Job:
    """The job that tells of a revoked node; repeatable."""
    body = RevocationOrder(node_id)
    kind = MessageType.REVOCATION_ORDER
    sealed = seal_distribution(kind, node_id, body, own.own, own.own.public, chance)
    return Job(sealed, Origin.PIPELINE, _NOWHERE)


def push(setting: Setting, job: Job, _header: SignalingHeader) -> Conversation:
    """RevocationOrder: send a PathRevocation to everyone who has not acknowledged."""
    own = setting.management
    assert own is not None  # the dispatcher sends this service's jobs only
    _, body = open_distribution(job.datagram, own.own, own.own.public)
    assert isinstance(body, RevocationOrder)
    generation, waiting = yield [
        ("GET", keys.nms_revoked(body.node_id)),
        ("SMEMBERS", keys.nms_revocation(body.node_id)),
    ]
    if generation is None:
        raise NotAllowedError("not_revoked")
    revocation = PathRevocation(body.node_id, int(generation))
    told, sends = sorted(waiting), []
    for start in range(0, len(told), READ_AT_ONCE):
        part = told[start : start + READ_AT_ONCE]
        reads: list[Command] = []
        for node_id in part:
            reads += [read_node(node_id), *(read_lease(family, node_id) for family in FAMILIES)]
        values = iter((yield [*reads]))
        for node_id in part:
            record = NodeRecord.parse(node_id, next(values))
            leases = [lease for _ in FAMILIES if (lease := Lease.parse(next(values))) is not None]
            if record is not None and leases:
                with suppress(DropError):  # one that cannot be told (its keys have ended) keeps nobody else waiting
                    sends.append(_tell(setting, record, leases, revocation))
    return Reply(sends)


def acknowledge(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """PathRevocationAck: that node need not be told again.  The revoked one may say so too."""
    (values,) = yield [read_node(header.node_id)]
    _, body = open_from_node(setting, job, header, values, PathRevocationAck, even_revoked=True)
    yield [("SREM", keys.nms_revocation(body.node_id), header.node_id)]
    return Reply()


def _tell(setting: Setting, record: NodeRecord, leases: list[Lease], revocation: PathRevocation) -> Send:
    lease = max(leases, key=lambda one: one.refreshed)
    found = current_key(record, setting.wall)
    # The transaction ID is the revoked node's ID: every repetition is the same transaction.
    header = SignalingHeader(MessageType.PATH_REVOCATION, found.number, record.node_id, revocation.node_id)
    sealed = seal_signaling(header, revocation, open_common_key(setting, record, found), setting.chance)
    return Send(sealed, Route(*lease.service, *lease.observed))
