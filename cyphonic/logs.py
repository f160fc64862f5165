"""Log lines for people and for machines: one line, ``key=value``, to stderr.

systemd's journal adds time and unit itself; elsewhere the time stands in front.
"""

from __future__ import annotations

import json
import logging
import sys
import time

LEVELS = ("debug", "info", "warning", "error")


def set_up_logging(tier: str, level: str = "info", *, journal: bool = False) -> None:
    """Send every logger of the process to stderr.  ``journal``: stderr is systemd's, leave the time out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_KeyValue(tier, journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def pairs(**fields: object) -> dict[str, dict[str, object]]:
    """For ``log.info("worker appeared", extra=pairs(worker=instance))``."""
    return {"fields": fields}


class _KeyValue(logging.Formatter):
    def __init__(self, tier: str, journal: bool) -> None:
        super().__init__()
        self._tier = tier
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {} if self._journal else {"time": _timestamp(record.created)}
        fields.update(level=record.levelname.lower(), tier=self._tier, event=record.getMessage())
        fields.update(getattr(record, "fields", {}))
        line = " ".join(f"{key}={_value(value)}" for key, value in fields.items())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _timestamp(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"


def _value(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(character in ' "=' for character in text)
    return text if plain else json.dumps(text)
