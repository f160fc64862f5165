"""What is wrong on this machine though the node goes on: said in the log once, and by ``status`` while it lasts."""

from __future__ import annotations

import logging

from cyphonic.errors import OperationalError
from cyphonic.logs import pairs

_log = logging.getLogger(__name__)


class Troubles:
    """By what they are about: a new one replaces the old."""

    def __init__(self) -> None:
        self._errors: dict[str, OperationalError] = {}

    @property
    def texts(self) -> list[str]:
        """For a person: what is wrong, and what to do."""
        return [": ".join(filter(None, (error.message, error.hint))) for error in self._errors.values()]

    def note(self, what: str, error: OperationalError) -> None:
        """It is wrong (still); only the first time, or with another text, is it logged."""
        known, self._errors[what] = self._errors.get(what), error
        if known is None or known.message != error.message:
            _log.error(error.message, extra=pairs(hint=error.hint))

    def clear(self, what: str) -> None:
        """It is right (again)."""
        error = self._errors.pop(what, None)
        if error is not None:
            _log.info("put right", extra=pairs(was=error.message))
