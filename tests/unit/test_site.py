import os
from pathlib import Path

import pytest

from cyphonic.errors import ConfigurationError
from cyphonic.site import SiteKeys, create_keys, load_site

PREFIX = '[site]\nprefix_ipv6 = "fd12:3456:789a::/48"\n'


def write(directory: Path, text: str) -> Path:
    file = directory / "cloud.toml"
    file.write_text(text)
    return file


def test_an_empty_redis_section_means_the_embedded_one(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, PREFIX + 'run_dir = "run"\n'), {})
    assert site.uses_embedded_redis
    assert site.redis_url == f"unix://{tmp_path}/run/redis.sock"
    other = load_site(write(tmp_path, PREFIX + '[redis]\nurl = "redis://192.0.2.1:6379/0"\n'), {})
    assert not other.uses_embedded_redis


def test_a_name_becomes_the_regions(tmp_path: Path) -> None:
    site = load_site(write(tmp_path, PREFIX + 'region = "r1"\ndomain = "example.org"\n'), {})
    assert site.fqdn("alice") == "alice.r1.example.org"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "prefix_ipv6: missing"),
        ('[site]\nprefix_ipv6 = "fd00::/47"\n', "not a /48"),
        ('[site]\nprefix_ipv6 = "10.0.0.0/8"\n', "not an IPv6 network"),
        (PREFIX + 'pool_ipv4 = "10.0.0.1/8"\n', "host bits set"),
        (PREFIX + 'pool_ipv4 = "10.0.0.0/30"\n', "too few addresses"),
        (PREFIX + 'region = "a b"\n', "not a DNS label"),
        (PREFIX + '[redis]\nurl = "localhost"\n', "starts with none of"),
        (PREFIX + "[reddis]\n", "not a known section"),
    ],
)
def test_what_is_wrong_with_a_site_is_said(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        load_site(write(tmp_path, text), {})


def test_without_a_file_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_site(tmp_path / "absent.toml", {})
    assert "cyphonic admin init" in caught.value.hint


def test_key_files_are_private_and_fit_together(tmp_path: Path) -> None:
    create_keys(tmp_path, os.urandom)
    keys = SiteKeys(tmp_path)
    assert keys.as_key().public == keys.as_public()
    assert keys.nms_key().public == keys.nms_public()
    assert keys.relay_key().public == keys.relay_public()
    assert keys.as_signing_key().public == keys.as_verify_key()
    assert len(keys.state_key()) == 32
    assert {file.name for file in tmp_path.glob("*.key") if file.stat().st_mode & 0o077} == set()


def test_making_keys_again_keeps_them(tmp_path: Path) -> None:
    create_keys(tmp_path, os.urandom)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    create_keys(tmp_path, os.urandom)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before


def test_a_missing_key_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nms\.key") as caught:
        SiteKeys(tmp_path).nms_key()
    assert "cyphonic admin init" in caught.value.hint


def test_a_secret_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    create_keys(tmp_path, os.urandom)
    (tmp_path / "as.key").chmod(0o644)
    with pytest.raises(ConfigurationError) as caught:
        SiteKeys(tmp_path).as_key()
    assert caught.value.hint.startswith("chmod 600")


def test_a_key_file_with_something_else_in_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "as.pub").write_text("hello\n")
    with pytest.raises(ConfigurationError, match=r"as\.pub"):
        SiteKeys(tmp_path).as_public()
