"""What the pipeline carries between frontends and workers: MessagePack arrays, one ZeroMQ frame each.

Frontend to worker: ``Batch``.  Worker to frontend: ``Report``.
"""

from __future__ import annotations

from enum import IntEnum

from cyphonic.wire.codec import Body
from cyphonic.wire.header import MessageType


class Service(IntEnum):
    """Which keys a job needs."""

    AS = 0
    NMS = 1


class Origin(IntEnum):
    """Where a job came from; set by the frontend, never read from bytes."""

    UDP = 0
    PIPELINE = 1


JOB_SERVICE = {
    MessageType.LOGIN_REQUEST: Service.AS,
    MessageType.KEY_DISTRIBUTION_ACK: Service.AS,
    MessageType.KEY_DISTRIBUTION: Service.NMS,
    MessageType.REVOCATION_ORDER: Service.NMS,
    MessageType.REGISTRATION_REQUEST: Service.NMS,
    MessageType.KEEP_ALIVE: Service.NMS,
    MessageType.DIRECTION_REQUEST: Service.NMS,
    MessageType.ROUTE_DIRECTION_CONFIRMATION: Service.NMS,
    MessageType.PATH_REVOCATION_ACK: Service.NMS,
    MessageType.LEAVE: Service.NMS,
}
"""Which service serves a type; the frontend routes by it."""


class Route(Body, frozen=True):
    """A reply route: it names endpoints, not a process, so any frontend bound to ``service`` may send."""

    service_host: str
    service_port: int
    node_host: str
    node_port: int


class Job(Body, frozen=True):
    """One signaling datagram on its way to a worker."""

    datagram: bytes
    """For a datagram from a node: without the two MACs, which the frontend has checked."""
    origin: int
    route: Route
    """Where it was asked and where it came from; zero values for a job from the pipeline."""


class Batch(Body, frozen=True):
    """Up to 64 jobs for one worker."""

    frontend: str
    """Instance ID of the frontend."""
    number: int
    """Counts up per frontend and worker; a credit allows numbers up to itself."""
    jobs: list[Job]


class Send(Body, frozen=True):
    """A datagram that a frontend bound to ``route.service_*`` sends to ``route.node_*``."""

    datagram: bytes
    route: Route


class Report(Body, frozen=True):
    """What a worker pushes back: credit, what it completed, what to send, and jobs for another service."""

    worker: str
    """Instance ID of the worker thread."""
    endpoint: str
    """ZeroMQ endpoint of its PULL socket."""
    curve_key: bytes
    """CURVE public key of that socket; empty on ipc."""
    services: list[int]
    """Empty: it is leaving and wants no more batches."""
    credit: int
    """Cumulative: batches up to this number may be pushed."""
    completed: list[int]
    """Numbers of batches whose writes and sends are done."""
    sends: list[Send]
    forwards: list[bytes]
    """Internal jobs; the frontend routes each by its type, with origin PIPELINE."""
