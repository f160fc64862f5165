"""What every test directory shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _missing_for_root_tests() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """At home a test without root is skipped; where CI promises root, it runs and fails."""
    reason = _missing_for_root_tests()
    if not reason or (os.environ.get("CI") and os.geteuid() == 0):
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))
