from __future__ import annotations

from pathlib import Path

import pytest

from cyphonic.configuration import load
from cyphonic.errors import ConfigurationError
from cyphonic.relay.config import RelaySection
from cyphonic.wire.endpoint import Endpoint


def read(text: str, directory: Path) -> RelaySection:
    file = directory / "cloud.toml"
    file.write_text(f"[relay]\n{text}\n")
    return load(RelaySection, section="relay", file=file, environ={})


def test_defaults_relay_both_families_on_one_port(tmp_path: Path) -> None:
    assert read("", tmp_path).listen == (Endpoint("0.0.0.0", 7703), Endpoint("::", 7703))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("listen = []", "one endpoint for IPv4"),
        ('listen = ["192.0.2.1:1", "192.0.2.2:1"]', "one endpoint for IPv4"),
        ("max_bindings = 1", "at least 2"),
        ("rate = -1", "not negative"),
        ('listen = ["192.0.2.1"]', "not ADDRESS:PORT"),
        ("rte = 5", "did you mean 'rate'|no key 'rte'"),
    ],
)
def test_what_cannot_be_is_named_with_its_reason(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        read(text, tmp_path)
