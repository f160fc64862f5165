"""The whole exception tree.

Three families, told apart by what happens next:

* ``MalformedError``: bad bytes.  The datagram becomes a counted drop.
* ``NotAllowedError``: good bytes at the wrong time, from the wrong sender, or replayed.  Also a counted
  drop.  Whoever raises either has changed nothing.
* ``OperationalError``: the world is broken (a file, a port, a privilege, Redis).  A person reads the
  message, so it says what to do next, and the command line turns it into a documented exit code.
"""

from __future__ import annotations


class CyphonicError(Exception):
    """Everything that cyphonic raises on purpose."""


class DropError(CyphonicError):
    """A datagram is deliberately not processed; ``reason`` names the counter (snake case)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedError(DropError):
    """Bytes that no correct sender produces: length, type, version, encoding or authentication."""


class NotAllowedError(DropError):
    """Well-formed, but not now, not twice, or not from this sender."""


class OperationalError(CyphonicError):
    """The world is broken.  ``exit_code`` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigurationError(OperationalError):
    """A file, variable or option cannot be used as it is."""

    exit_code = 2


class NotEnrolledError(OperationalError):
    """This node has no identity yet, or the cloud no longer accepts the one it has."""

    exit_code = 3


class CloudUnreachableError(OperationalError):
    """No service of the cloud answered in time, or a cloud tier cannot reach Redis."""

    exit_code = 4


class PeerUnreachableError(OperationalError):
    """The peer is unknown, offline, or does not answer."""

    exit_code = 5


class PolicyDeniedError(OperationalError):
    """Refused by policy."""

    exit_code = 6
