"""Where a process of the pipeline listens."""

from pathlib import Path

import pytest

from cyphonic.errors import ConfigurationError
from cyphonic.pipeline.address import check_setting, resolve


@pytest.mark.parametrize(
    "setting",
    ["", "tcp://10.1.0.3:7800", "tcp://10.1.0.0/24:7800-7899", "tcp://[fd00::/64]:7800-7899", "tcp://127.0.0.1:*"],
)
def test_addresses_networks_and_ranges_of_ports_are_settings(setting: str) -> None:
    check_setting(setting)


@pytest.mark.parametrize(
    "setting",
    [
        "tcp://0.0.0.0:7800",
        "tcp://[::]:7800",
        "tcp://host:7800",
        "tcp://10.1.0.3",
        "tcp://10.1.0.3:0",
        "tcp://10.1.0.3:70000",
        "tcp://10.1.0.3:7899-7800",
        "tcp://10.1.0.0/40:7800",
        "ipc:///run/x",
        "10.1.0.3:7800",
    ],
)
def test_what_nobody_could_connect_to_is_an_error_that_names_the_key(setting: str) -> None:
    with pytest.raises(ValueError, match="pipeline"):
        check_setting(setting)


def test_a_network_stands_for_this_hosts_address_in_it() -> None:
    assert resolve("tcp://127.0.0.0/8:7800-7899", Path(), "f") == "tcp://127.0.0.1:7800-7899"
    assert resolve("tcp://[::1]:*", Path(), "f") == "tcp://[::1]:*"


def test_a_host_without_an_address_in_that_network_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"no address in 198\.51\.100\.0/24"):
        resolve("tcp://198.51.100.0/24:7800", Path(), "f")
