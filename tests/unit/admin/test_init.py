import ipaddress
import os
import random
from pathlib import Path

import pytest

from cyphonic.admin import init
from cyphonic.admin.init import NewSite, complete_site, create_site, directories_for, next_steps, random_prefix
from cyphonic.configuration import load
from cyphonic.errors import ConfigurationError
from cyphonic.frontend import config as frontend
from cyphonic.relay import config as relay
from cyphonic.site import CLOUD_FILE, SiteKeys, load_site
from cyphonic.wire.endpoint import Endpoint


def _new(tmp_path: Path, *hosts: str) -> NewSite:
    return NewSite(tmp_path / "site" / "cloud.toml", "main", "cyphonic.example", "10.77.0.0/16", hosts)


def test_a_new_site_is_read_by_every_tier(tmp_path: Path) -> None:
    new = _new(tmp_path, "192.0.2.1", "2001:db8::1")
    create_site(new, os.urandom)
    site = load_site(new.file, {})
    assert (site.region, site.domain) == ("main", "cyphonic.example")
    assert site.keys_dir == tmp_path / "site" / "keys"
    front = load(frontend.FrontendSection, section="frontend", file=new.file, environ={})
    assert front.as_advertise == (Endpoint("192.0.2.1", 7701), Endpoint("2001:db8::1", 7701))
    assert load(relay.RelaySection, section="relay", file=new.file, environ={}).advertise[0].port == 7703


def test_the_ports_in_a_new_site_are_those_that_the_tiers_listen_on() -> None:
    assert (init.AS_PORT, init.NMS_PORT) == (frontend.AS_PORT, frontend.NMS_PORT)
    assert relay.DEFAULT_PORT == init.RELAY_PORT


def test_the_secrets_of_a_new_site_are_for_their_owner_alone(tmp_path: Path) -> None:
    keys = create_site(_new(tmp_path), os.urandom)
    secrets = sorted(keys.glob("*.key"))
    assert [file.name for file in secrets] == [
        "as-signing.key", "as.key", "nms.key", "pipeline.key", "relay.key", "state.key",
    ]  # fmt: skip
    assert {file.stat().st_mode & 0o777 for file in secrets} == {0o600}
    assert SiteKeys(keys).as_key().public == SiteKeys(keys).as_public()


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    new = _new(tmp_path)
    keys = create_site(new, os.urandom)
    before = {file: file.read_bytes() for file in [new.file, *keys.iterdir()]}
    with pytest.raises(ConfigurationError, match="exists: this machine has a site"):
        create_site(new, os.urandom)
    assert before == {file: file.read_bytes() for file in [new.file, *keys.iterdir()]}
    new.file.unlink()
    create_site(new, os.urandom)
    assert all(file.read_bytes() == data for file, data in before.items() if file != new.file)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"region": "two words"}, "not a DNS label"),
        ({"pool_ipv4": "10.77.0.0/31"}, "too few addresses"),
        ({"pool_ipv4": "fd00::/64"}, "not an IPv4 network"),
        ({"hosts": ("cloud.example",)}, "not an IP address"),
    ],
)
def test_a_bad_choice_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    new = NewSite(**{**vars(_new(tmp_path)), **change})
    with pytest.raises(ConfigurationError, match=reason):
        create_site(new, os.urandom)
    assert list(tmp_path.iterdir()) == []


def test_every_site_has_a_prefix_of_its_own() -> None:
    prefixes = {random_prefix(random.Random(seed).randbytes) for seed in range(100)}
    assert len(prefixes) == 100
    for prefix in prefixes:
        network = ipaddress.ip_network(prefix)
        assert network.prefixlen == 48
        assert network.subnet_of(ipaddress.ip_network("fd00::/8"))  # type: ignore[arg-type]  # all are IPv6


def test_the_site_of_the_machine_is_kept_where_the_system_keeps_such_things() -> None:
    directories = directories_for(CLOUD_FILE)
    assert str(directories.keys) == "/etc/cyphonic/keys"
    assert str(directories.run) == "/run/cyphonic"


def test_the_next_steps_name_the_file_only_when_it_is_not_the_usual_one(tmp_path: Path) -> None:
    assert f"--config {tmp_path}" in next_steps(_new(tmp_path))
    assert "--config" not in next_steps(NewSite(CLOUD_FILE, "main", "example", "10.0.0.0/8"))


def test_an_older_site_gets_the_keys_that_it_lacks_and_keeps_the_rest(tmp_path: Path) -> None:
    keys = create_site(_new(tmp_path), os.urandom)
    (keys / "pipeline.key").unlink()
    before = {file: file.read_bytes() for file in keys.glob("*.key")}
    assert complete_site(_new(tmp_path).file, os.urandom) == [keys / "pipeline.key"]
    assert all(file.read_bytes() == content for file, content in before.items())
    assert complete_site(_new(tmp_path).file, os.urandom) == []


def test_a_host_that_was_given_some_keys_only_is_given_no_others(tmp_path: Path) -> None:
    keys = create_site(_new(tmp_path), os.urandom)
    for name in ("as-signing.key", "pipeline.key"):
        (keys / name).unlink()
    assert complete_site(_new(tmp_path).file, os.urandom) == []
    assert not (keys / "as-signing.key").exists()
