from __future__ import annotations

import logging

import pytest

from cyphonic.errors import OperationalError
from cyphonic.node.troubles import Troubles

FULL = OperationalError("node.json cannot be written: No space left on device", "make room there")


def test_a_trouble_is_logged_once_and_told_as_long_as_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    troubles = Troubles()
    for _ in range(3):
        troubles.note("state", FULL)
    assert troubles.texts == ["node.json cannot be written: No space left on device: make room there"]
    assert len(caplog.records) == 1
    troubles.clear("state")
    troubles.clear("state")
    assert not troubles.texts
    assert [record.message for record in caplog.records[1:]] == ["put right"]


def test_another_trouble_with_the_same_thing_replaces_the_first(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()
    troubles.note("state", FULL)
    troubles.note("state", OperationalError("node.json cannot be written: Read-only file system"))
    assert troubles.texts == ["node.json cannot be written: Read-only file system"]
    assert len(caplog.records) == 2
