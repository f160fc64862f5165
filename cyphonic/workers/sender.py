"""Opening what a node sends to the NMS: its record, its common key, its message."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.signaling import open_signaling, seal_signaling
from cyphonic.state.registry import CommonKey, NodeRecord, sealed_key_place
from cyphonic.state.transactions import promote_key
from cyphonic.wire.codec import Body, decode
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.job import Job, Send
from cyphonic.workers.setting import Commands, HintedDropError, Setting

BodyT = TypeVar("BodyT", bound=Body)


class Sender(NamedTuple):
    """An authenticated node."""

    record: NodeRecord
    key_number: int
    common_key: bytes
    uses_next: bool
    """Under the key that its last login brought: from now on that is the current one."""

    def promotion(self, wall: float) -> Commands:
        """What else has to be written because this message was opened."""
        return [promote_key(self.record.node_id, self.key_number, wall)] if self.uses_next else []

    def answer(self, setting: Setting, kind: MessageType, job: Job, header: SignalingHeader, body: Body) -> Send:
        """A sealed answer along the route that the message came by."""
        answer = SignalingHeader(kind, self.key_number, self.record.node_id, header.transaction_id)
        return Send(seal_signaling(answer, body, self.common_key, setting.chance), job.route)


def open_from_node(
    setting: Setting,
    job: Job,
    header: SignalingHeader,
    values: list[Any],
    body_type: type[BodyT],
    *,
    even_revoked: bool = False,
) -> tuple[Sender, BodyT]:
    """Authenticate a message by its sender's record (the result of ``read_node``).

    Raise HintedDropError for an unknown or revoked sender or a key that is not (or no longer) accepted,
    MalformedError for a message that does not open.
    """
    record = NodeRecord.parse(header.node_id, values)
    if record is None:
        raise HintedDropError("unknown_node")
    if record.revoked and not even_revoked:
        raise HintedDropError("revoked")
    found = _accepted_key(record, header.key_number, setting.wall)
    common_key = open_common_key(setting, record, found)
    body = decode(open_signaling(job.datagram, header, common_key), body_type)
    uses_next = record.following is not None and CommonKey.decode(record.following).number == found.number
    return Sender(record, found.number, common_key, uses_next), body


def open_common_key(setting: Setting, record: NodeRecord, found: CommonKey) -> bytes:
    """The 32 bytes of a stored common key."""
    return setting.vault.open(sealed_key_place(record.static_key, found.number), found.sealed)


def current_key(record: NodeRecord, wall: float) -> CommonKey:
    """The key to seal under for a node that has not just asked; raise NotAllowedError("no_common_key")."""
    if record.current is None or (found := CommonKey.decode(record.current)).expires <= wall:
        raise NotAllowedError("no_common_key")
    return found


def _accepted_key(record: NodeRecord, number: int, wall: float) -> CommonKey:
    for slot in (record.current, record.following, record.previous):
        if slot is not None:
            found = CommonKey.decode(slot)
            if found.number == number and wall < found.expires:
                return found
    raise HintedDropError("unknown_key")
