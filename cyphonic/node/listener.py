"""Taking connections of a listening socket in the loop, also when there is no descriptor left for another one.

A connection that cannot be accepted stays in the kernel's queue and keeps the listener readable, so trying again at
once would only spin: the listener rests for a moment instead.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable

from cyphonic.logs import pairs
from cyphonic.node.loop import Loop, Timer

REST = 1.0
"""Seconds until the next attempt when there was no descriptor or no memory for a connection."""

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = logging.getLogger(__name__)


class Listener:
    """Calls ``take(connection)`` for each one, which does not block.

    ``name`` is for the log.  The listener is closed with this.
    """

    def __init__(
        self, loop: Loop, listener: socket.socket, take: Callable[[socket.socket], None], name: str
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._take = take
        self._name = name
        self._rest: Timer | None = None
        self._short = False
        self._resume()

    def close(self) -> None:
        """Take no more.  May be called twice."""
        if self._rest is not None:
            self._rest.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove(self._listener.fileno())
            self._listener.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _SHORTAGES:
                self._pause(error.errno)
            return  # else: it has gone again
        if self._short:
            self._short = False
            _log.info("connections are taken again", extra=pairs(listener=self._name))
        connection.setblocking(False)
        self._take(connection)

    def _pause(self, number: int) -> None:
        if not self._short:
            self._short = True
            fields = pairs(
                listener=self._name, reason=os.strerror(number), hint="is the limit (ulimit -n) too low?"
            )
            _log.warning("no connection can be taken now", extra=fields)
        self._loop.remove_reader(self._listener.fileno())
        self._rest = self._loop.call_later(REST, self._resume)
