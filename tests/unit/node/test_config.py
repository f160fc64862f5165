from __future__ import annotations

from pathlib import Path

import pytest

from cyphonic.errors import ConfigurationError
from cyphonic.node.config import NodeConfig, load_node
from cyphonic.wire.endpoint import Endpoint


def test_a_machine_without_a_file_has_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cyphonic.node.config.NODE_FILE", tmp_path / "absent.toml")
    config = load_node(None, {})
    assert config == NodeConfig()
    assert config.dns_address == Endpoint("127.53.53.53", 53)


def test_flag_beats_variable_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\ndevice = "tun7"\nmtu = 1300\nstate_dir = "state"\n')
    environ = {"CYPHONIC_NODE_DEVICE": "tun8", "CYPHONIC_NODE_MTU": "1310"}
    config = load_node(file, environ, {"mtu": 1320})
    assert (config.device, config.mtu, config.state_dir) == ("tun8", 1320, tmp_path / "state")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[node]\nmtu = 100\n", "mtu"),
        ("[node]\nlisten_port = 70000\n", "listen_port"),
        ('[node]\ndns_mode = "magic"\n', "dns_mode"),
        ('[node]\ndns_address = "somewhere"\n', "dns_address"),
        ('[node]\ndevise = "tun7"\n', "devise"),
        ('[node]\ndevice = "a device"\n', "device: 'a device'"),
        ("[nod]\n", "nod"),
        ("[node\n", "TOML"),
    ],
)
def test_a_broken_file_is_named_with_key_and_reason(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_node(file, {})
    assert str(file) in caught.value.message
