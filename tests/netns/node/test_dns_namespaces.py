from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cyphonic.node.dns_setup import DnsSetup, in_other_network_namespace
from cyphonic.node.resolvconf import ResolvConf
from cyphonic.wire.endpoint import Endpoint

pytestmark = pytest.mark.root

Isolated = Callable[[Callable[[], None]], None]
SERVER = Endpoint("127.53.53.53", 53)


def test_a_bind_mounted_resolv_conf_is_overwritten_in_place_and_given_back(
    isolated: Isolated, tmp_path: Path
) -> None:
    mounted, path = tmp_path / "mounted", tmp_path / "resolv.conf"
    path.touch()
    mounted.write_text("nameserver 192.0.2.53\n")

    def body() -> None:
        subprocess.run(["mount", "--bind", mounted, path], check=True)
        setup = DnsSetup("auto", "cyphonic0", ResolvConf(tmp_path / "state", path))
        setup.apply(SERVER, "home.cyphonic.internal", [])
        assert setup.mode == "resolv.conf"
        assert "127.53.53.53" in mounted.read_text()  # also for other processes of this namespace
        setup.revert()
        assert mounted.read_text() == "nameserver 192.0.2.53\n"

    isolated(body)


def test_a_file_shared_with_the_machine_is_never_touched_from_another_network_namespace(
    isolated: Isolated, tmp_path: Path
) -> None:
    shared = tmp_path / "resolv.conf"  # a stand-in: a test must not risk the machine's
    shared.write_text("nameserver 192.0.2.53\n")

    def body() -> None:
        assert in_other_network_namespace()
        setup = DnsSetup("auto", "cyphonic0", ResolvConf(tmp_path / "state", shared))
        setup.apply(SERVER, "home.cyphonic.internal", [])
        assert "outside this network namespace" in setup.mode

    isolated(body)
    assert shared.read_text() == "nameserver 192.0.2.53\n"
