"""Specification constants: timers in seconds, counts, sizes in bytes.  Not configuration: both ends rely on them.

Names in capitals without a comment of their own are WireGuard's (Donenfeld, "WireGuard", NDSS 2017, §6.1).
"""

from __future__ import annotations

# Tunnel sessions (WireGuard's values).
REKEY_AFTER_MESSAGES = 2**60
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
REKEY_AFTER_TIME = 120.0
REJECT_AFTER_TIME = 180.0
REKEY_ATTEMPT_TIME = 90.0
REKEY_TIMEOUT = 5.0
KEEPALIVE_TIMEOUT = 10.0
COOKIE_REFRESH_TIME = 120.0
COOKIE_DOUBT_AFTER = 0.4
"""A cookie that was used for this long without any answer is used no more: less than the first resending."""

PREVIOUS_SESSION_GRACE = 10.0
"""The previous session still opens capsules until the new one is this old."""
REPLAY_WINDOW = 8192
"""Capsules; a burst of 44 pieces over several paths reorders far less."""
MAX_STAGED_PACKETS = 128
"""Packets that wait for one peer's tunnel (WireGuard's MaxStagedPackets)."""

# The signaling client: resend, then give up.
RESEND_AFTER = (0.0, 0.5, 1.5, 3.5, 7.5)
"""Seconds after the first sending; each but the first with up to 10 % of jitter."""
RESEND_JITTER = 0.1
GIVE_UP_AFTER = 15.5

# Transactions at the cloud.
TRANSACTION_LIFETIME = 32
"""A pending or done transaction stays this long in the State Database: longer than a client resends."""
REQUEST_MAX_AGE = 20.0
REQUEST_MAX_LEAD = 10.0
"""A DirectionRequest older or more in the future than this is stale; with the transaction's lifetime that leaves
a replay nothing to open."""

# Keys and certificates.
COMMON_KEY_LIFETIME = 24 * 3600
COMMON_KEY_RENEWAL = 0.5
COMMON_KEY_RENEWAL_JITTER = 0.1
PREVIOUS_COMMON_KEY_GRACE = 60
CERTIFICATE_LIFETIME = 24 * 3600
PATH_KEY_LIFETIME = 3600
PATH_KEY_RENEWAL = 0.5
ADDRESS_REST = CERTIFICATE_LIFETIME
"""A freed virtual address is not given out again before every certificate that names it has expired."""

# Registration.
KEEPALIVE_INTERVAL = 20
"""RFC 4787 asks NATs for at least 2 min, Linux ships 30 s for unreplied UDP flows."""
LEASE = 75
"""Three keepalives and some."""
UNANSWERED_KEEPALIVES = 2
"""Then the node turns to the next frontend and registers there."""
KEY_UNKNOWN_HINTS = 2
KEY_UNKNOWN_PATIENCE = 5.0
"""Two hints and this long without a valid answer make a node log in again."""
LOGIN_RETRY_INITIAL = 1.0
LOGIN_RETRY_MAX = 60.0

# Paths.
HOLE_PUNCH_INTERVAL = 0.1
HOLE_PUNCH_COUNT = 20
RELAY_FALLBACK = 0.3
"""A TunnelRequest unanswered for this long also goes through the relay."""
PATH_CHECK_INTERVAL = 0.2
PATH_CHECK_COUNT = 20
PROBED_DIRECTIONS = 20
PROBED_DIRECTION_INTERVAL = 10.0
"""Of one peer so many directions at once, and one more after so many seconds, may name places that never answered:
they get hole punches and path checks, and may be some stranger's."""
PERSISTENT_KEEPALIVE = 20.0
"""An active peer's path is kept open in NATs by an empty capsule after this long without sending."""
PEER_IDLE = 180.0
"""A peer without packets in either direction for this long is no longer kept alive."""

# Relay.
TOKEN_LIFETIME = 300
BINDING_IDLE = 300
CHALLENGE_SLOT = 10
"""A RelayBindChallenge is valid in its slot of this many seconds and the next one."""
PROBE_TICKET_SLOT = 10
"""A ticket of a RelayProbeReply is valid in its slot of this many seconds, the one before and the one after."""
RELAY_PROBE_COUNT = 3
RELAY_PROBE_INTERVAL = 0.2
RELAY_PROBE_PATIENCE = 1.0
"""A node measures a relay by the best of so many probes, so far apart; one unanswered for so long is lost."""
RELAY_MEASURE_INTERVAL = 300.0
"""Seconds between two measurements of all relays, ± 20 %; the first follows the registration."""

# Overlay interface.
TUN_MTU = 1400
"""1500 less IPv6 (40), UDP (8), relayed header (8), capsule header (16) and tag (16), rounded down."""
