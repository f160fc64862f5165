"""Every key in Redis.

``<static>`` is a node's X25519 public key, ``<node>`` its node ID, ``<tx>`` a transaction ID, ``<handle>`` a
handle: raw bytes.  Durable keys have no expiry: they are the registry, backed up with the Redis (AOF).

============================ ======= ======================================================= ======================
key                          type    value                                                   expires
============================ ======= ======================================================= ======================
``as:nodes``                 set     every enrolled static key                               never: registry
``as:node:<static>``         hash    name, stamp, key_number, generation, revoked,           never: registry
                                     enrolment, node_id
``as:name:<name>``           string  static key that owns the name                           never: registry
``as:enrolments``            zset    hash of an enrolment key -> time of making              never: registry
``as:enrolment:<hash>``      hash    name, uses, used, expires, revoked, created             30 d after the key has
                                                                                             expired, else never
``as:enrolment:<hash>:used`` set     static keys that consumed it                            as the key
``as:login:<static><tx>``    hash    a login: state, request, route, common_key (sealed),    TRANSACTION_LIFETIME
                                     key_number, name, generation; once done: outcome,
                                     certificate
``nms:static:<static>``      string  node ID                                                 never: registry
``nms:node:<node>``          hash    static, fqdn, ipv6, ipv4, generation, revoked,          never: registry
                                     certificate, certificate_expires, current, next,
                                     previous (common keys, see below)
``nms:name:<fqdn>``          string  node ID                                                 never: registry
``nms:address:<address>``    string  node ID that holds the virtual address (4 or 16 bytes)  never: registry
``nms:ipv4:taken``           string  count of IPv4 addresses held                            never: registry
``nms:resting:4``, ``:6``    zset    freed virtual address -> when it may be given again     members leave
``nms:lease:<family>:<node>`` hash   observed, service, candidates, capabilities, round_trips, refreshed  LEASE
``nms:order:<node>``         hash    highest accepted order per family, recent ones          2 COMMON_KEY_LIFETIME
``nms:transaction:<node><tx>`` string handle of the initiator's direction                    TRANSACTION_LIFETIME
``nms:direction:<handle>``   hash    state, initiator, responder, route, saved (sealed)      TRANSACTION_LIFETIME
``nms:paths:<node>``         zset    peer of a live path -> when its path key ends           PATH_KEY_LIFETIME
``nms:revocation:<node>``    set     nodes that have not yet acknowledged its revocation     PATH_KEY_LIFETIME
``nms:deleted:<static>``     string  1: a login under way does not bring the node back    TRANSACTION_LIFETIME
``nms:revoked:<node>``       string  generation up to which its certificates are void        PATH_KEY_LIFETIME
``nms:revocations``          zset    revoked node with outstanding acks -> next push         PATH_KEY_LIFETIME
``fleet``                    zset    instance -> its last heartbeat                          a minute
``fleet:members``            hash    instance -> FleetMember                                 a minute
``fleet:cookie``             string  secret that frontends make cookies with                 an hour without any
============================ ======= ======================================================= ======================

Owners: ``as:`` is written by AS workers, ``nms:`` by NMS workers, both by the administrator's commands; ``fleet``
by every tier.  A common key in ``nms:node`` is {number (10 digits), expiry in unix seconds (10 digits), sealed}.

Numbers that order things (stamps; key number and counter) are stored as decimal digits of fixed length and compared
as text: Lua's numbers are doubles and would confuse stamps of nanoseconds.
"""

from __future__ import annotations

AS_NODES = b"as:nodes"
AS_ENROLMENTS = b"as:enrolments"
NMS_IPV4_TAKEN = b"nms:ipv4:taken"
NMS_RESTING_IPV4 = b"nms:resting:4"
NMS_RESTING_IPV6 = b"nms:resting:6"
NMS_REVOCATIONS = b"nms:revocations"
FLEET = b"fleet"
FLEET_MEMBERS = b"fleet:members"
FLEET_COOKIE = b"fleet:cookie"


def as_node(static_key: bytes) -> bytes:
    """A node as the AS knows it."""
    return b"as:node:" + static_key


def as_name(name: str) -> bytes:
    """Who owns a name."""
    return b"as:name:" + name.encode()


def as_enrolment(digest: bytes) -> bytes:
    """An enrolment key by its hash."""
    return b"as:enrolment:" + digest


def as_enrolment_used(digest: bytes) -> bytes:
    """Who consumed it."""
    return b"as:enrolment:" + digest + b":used"


def as_login(static_key: bytes, transaction_id: bytes) -> bytes:
    """A login transaction: named by its authenticated sender and the transaction ID."""
    return b"as:login:" + static_key + transaction_id


def nms_static(static_key: bytes) -> bytes:
    """Node ID of a static key."""
    return b"nms:static:" + static_key


def nms_node(node_id: bytes) -> bytes:
    """A node as the NMS knows it."""
    return b"nms:node:" + node_id


def nms_name(fqdn: str) -> bytes:
    """Node ID of an FQDN."""
    return b"nms:name:" + fqdn.encode()


def nms_address(address: bytes) -> bytes:
    """Node ID of a virtual address of 4 or 16 bytes."""
    return b"nms:address:" + address


def nms_lease(family: int, node_id: bytes) -> bytes:
    """A node's lease of one family, 4 or 6."""
    return b"nms:lease:%d:" % family + node_id


def nms_order(node_id: bytes) -> bytes:
    """Which counters of a node were accepted."""
    return b"nms:order:" + node_id


def nms_transaction(node_id: bytes, transaction_id: bytes) -> bytes:
    """Handle of an initiator's transaction."""
    return b"nms:transaction:" + node_id + transaction_id


def nms_direction(handle: bytes) -> bytes:
    """A direction transaction."""
    return b"nms:direction:" + handle


def nms_paths(node_id: bytes) -> bytes:
    """Peers of a node's live paths."""
    return b"nms:paths:" + node_id


def nms_revocation(node_id: bytes) -> bytes:
    """Who has not yet acknowledged a node's revocation."""
    return b"nms:revocation:" + node_id


def nms_revoked(node_id: bytes) -> bytes:
    """Generation up to which a revoked node's certificates are void."""
    return b"nms:revoked:" + node_id
