"""The node's registrations with the NMS, one attachment for each address family of its underlay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from socket import AF_INET, AF_INET6, AddressFamily

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.attachment import Attachment, Lease, Phase, Presence
from cyphonic.protocol.client_resources import ClientResources
from cyphonic.protocol.common_key import KeyRing
from cyphonic.protocol.frontend_list import FrontendList
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.registration import RelayRoundTrip


class Registrations:
    """Both families' attachments, and what they tell the NMS of the node."""

    def __init__(self, ring: KeyRing, frontends: FrontendList, resources: ClientResources) -> None:
        self._frontends = frontends
        self.families: frozenset[AddressFamily] = frozenset()
        """Of the underlay."""
        self._attachments = {
            family: Attachment(family, ring, frontends, resources) for family in (AF_INET6, AF_INET)
        }
        self.presence = Presence((), b"")

    @property
    def leases(self) -> dict[AddressFamily, Lease]:
        """What the NMS knows of this node, by address family."""
        return {
            family: attachment.lease
            for family, attachment in self._attachments.items()
            if attachment.lease is not None
        }

    @property
    def under_way(self) -> bool:
        """Whether the answer to any registration is still awaited."""
        return any(attachment.phase is Phase.REGISTERING for attachment in self._attachments.values())

    @property
    def stranded(self) -> bool:
        """Whether the underlay has a family, but no frontend listens to it."""
        return bool(self.families) and not self._frontends.round()

    def describe(self, families: Collection[AddressFamily], presence: Presence) -> bool:
        """Speak of the node like this from now on; True when that is news."""
        if frozenset(families) == self.families and presence == self.presence:
            return False
        self.families = frozenset(families)
        self.presence = presence
        return True

    def measured(self, relays: Sequence[RelayRoundTrip]) -> None:
        """Say so in registrations from now on."""
        self.presence = replace(self.presence, relays=tuple(relays))

    def register(self, now: float) -> None:
        """At once, over every family of the underlay; the other families' leases are left to end."""
        for family, attachment in self._attachments.items():
            if family in self.families:
                attachment.register(self.presence, now)
            else:
                attachment.stop()

    def register_idle(self, now: float) -> None:
        """The NMS has other frontends than before: there may be one for a family that had none."""
        for family, attachment in self._attachments.items():
            if family in self.families and attachment.phase is Phase.IDLE:
                attachment.register(self.presence, now)

    def refresh(self, now: float) -> None:
        """A keepalive at once, over every family with a lease."""
        for attachment in self._attachments.values():
            attachment.refresh(now)

    def stop(self) -> None:
        """Forget every lease."""
        for attachment in self._attachments.values():
            attachment.stop()

    def destinations(self, now: float) -> Sequence[Endpoint]:
        """A round from where this node has a lease; empty where it has none, since the NMS would refuse."""
        for attachment in self._attachments.values():
            lease = attachment.lease
            if lease is not None and now < lease.expires:
                return self._frontends.round(lease.frontend)
        return ()

    def awaiting(self, transaction_id: bytes) -> Attachment | None:
        """The attachment that an answer to that is for."""
        for attachment in self._attachments.values():
            if attachment.awaits(transaction_id):
                return attachment
        return None

    def find(self, transaction_id: bytes) -> Attachment:
        """The same; raise NotAllowedError("unknown_transaction") when there is none."""
        attachment = self.awaiting(transaction_id)
        if attachment is None:
            raise NotAllowedError("unknown_transaction")
        return attachment
