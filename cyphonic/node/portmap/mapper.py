"""The machine that gets a mapping and keeps it.  Pure: its driver carries datagrams to the gateway, and time.

============ =========================================== ====================================================
state        answer                                      time is due
============ =========================================== ====================================================
``IDLE``     drop                                        –
``ASKING``   granted: ``MAPPED``; refused or not spoken: send again at 0.5, 1.5, 3.5 s, then the next protocol;
             the next protocol                           after the last one ``REFUSED``
``MAPPED``   drop, or to a renewal: as above             half of the lifetime: ask the same protocol again, until
                                                         the mapping's end: ``ASKING``
``REFUSED``  drop                                        after 10 min: ``ASKING``, from the first protocol on
============ =========================================== ====================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from cyphonic.node.portmap.natpmp import NatPmpSpeaker
from cyphonic.node.portmap.pcp import PcpSpeaker
from cyphonic.node.portmap.speaker import Granted, Refused, Speaker
from cyphonic.protocol.chance import Chance
from cyphonic.wire.endpoint import Endpoint

LIFETIME = 3600
"""Seconds asked for: long enough to be little work, short enough for a crash to leave nothing for long."""
MIN_LIFETIME = 60
"""Seconds: a shorter grant is renewed as if it were this long."""
MAX_LIFETIME = 24 * 3600
RESEND_AFTER = (0.5, 1.5, 3.5)
PATIENCE = 4.0
"""Seconds for one protocol.  The RFCs would go on for minutes; who answers at all does so in milliseconds."""
RETRY_AFTER = 600.0
RENEWAL_RETRY = 60.0


class MapperState(Enum):
    """Rows of the table above."""

    IDLE = "idle"
    ASKING = "asking"
    MAPPED = "mapped"
    REFUSED = "refused"


class PortMapper:
    """One mapping at one gateway.  Only ``receive`` raises: MalformedError, having changed nothing."""

    def __init__(self, chance: Chance) -> None:
        self.state = MapperState.IDLE
        self.external: Endpoint | None = None
        """The mapped endpoint, while there is one."""
        self.protocol = ""
        """That mapped it."""
        self.refusal = ""
        """What the gateway said last, if it refused."""
        self._chance = chance
        self._host, self._port = "", 0
        self._speakers: list[Speaker] = []
        self._speaker: Speaker | None = None
        self._resend_at: list[float] = []
        self._give_up_at = math.inf
        self._renew_at = math.inf
        self._ends_at = math.inf
        self._outgoing: list[bytes] = []

    def begin(self, host: str, port: int, now: float) -> None:
        """Ask for a mapping of UDP port ``port`` of this machine's address ``host``; forget an earlier one."""
        self._host, self._port = host, port
        self.external, self.protocol, self.refusal = None, "", ""
        self._ends_at = self._renew_at = math.inf
        self.state = MapperState.ASKING
        self._speakers = [PcpSpeaker(host, port, self._chance), NatPmpSpeaker(port)]
        self._next_speaker(now)

    def end(self) -> None:
        """Give the mapping back, if there is one: one datagram, no answer is awaited."""
        if self.external is not None and self._speaker is not None:
            self._outgoing = self._speaker.requests(0)
        self.external = None
        self._ends_at = math.inf
        self._rest(MapperState.IDLE)

    def receive(self, datagram: bytes, now: float) -> None:
        """From the gateway.  Raise MalformedError("bad_mapping")."""
        if self._speaker is None or not self._resend_at:
            return  # nothing is awaited: a repetition
        answer = self._speaker.read(datagram)
        if isinstance(answer, Granted):
            self._granted(answer, now)
        elif isinstance(answer, Refused):
            self._refused(answer, now)

    def unreachable(self, now: float) -> None:
        """The gateway has nobody at that port (ICMP)."""
        if self._resend_at:
            self._next_speaker(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        if now >= self._ends_at:
            self.begin(self._host, self._port, now)
        elif self._resend_at and now >= self._resend_at[0]:
            self._resend(now)
        elif now >= self._renew_at:
            self._renew(now)

    def next_deadline(self) -> float:
        """When ``handle_timeout`` has something to do; infinity when never."""
        return min(self._ends_at, self._resend_at[0] if self._resend_at else self._renew_at)

    def datagrams_to_send(self) -> Sequence[bytes]:
        """To the gateway, once."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def _ask(self, now: float) -> None:
        assert self._speaker is not None
        self._resend_at = [now + after for after in (*RESEND_AFTER, PATIENCE)]
        self._give_up_at = now + PATIENCE
        self._outgoing = self._speaker.requests(LIFETIME)

    def _resend(self, now: float) -> None:
        assert self._speaker is not None
        if now >= self._give_up_at:
            self._next_speaker(now)
            return
        while self._resend_at[0] <= now:
            self._resend_at.pop(0)
        self._outgoing = self._speaker.requests(LIFETIME)

    def _next_speaker(self, now: float) -> None:
        if self._speakers:
            self._speaker = self._speakers.pop(0)
            self._ask(now)
        elif self.external is not None:  # a renewal: what there is stands until its end
            self._resend_at = []
            self._renew_at = now + RENEWAL_RETRY
        else:
            self._rest(MapperState.REFUSED)
            self._renew_at = now + RETRY_AFTER

    def _renew(self, now: float) -> None:
        if self.state is MapperState.REFUSED:
            self.begin(self._host, self._port, now)
            return
        self._renew_at = math.inf
        self._ask(now)

    def _granted(self, granted: Granted, now: float) -> None:
        assert self._speaker is not None
        lifetime = min(max(granted.lifetime, MIN_LIFETIME), MAX_LIFETIME)
        self.state = MapperState.MAPPED
        self.external, self.protocol, self.refusal = granted.external, self._speaker.name, ""
        self._resend_at = []
        self._speakers = []
        self._renew_at = now + lifetime / 2
        self._ends_at = now + lifetime

    def _refused(self, refused: Refused, now: float) -> None:
        assert self._speaker is not None
        if not refused.unsupported:
            self.refusal = f"{self._speaker.name}: {refused.reason}"
        self._next_speaker(now)

    def _rest(self, state: MapperState) -> None:
        self.state = state
        self._resend_at = []
        self._renew_at = math.inf
        self._speaker = None
