from __future__ import annotations

from pathlib import Path

import pytest

from cyphonic.relay import advertisement
from cyphonic.relay.advertisement import advertised_endpoints
from cyphonic.site import Site
from cyphonic.wire.endpoint import Endpoint

HOSTS = {
    "0.0.0.0": ["127.0.0.1", "192.0.2.1", "10.77.0.5", "192.0.2.2", "192.0.2.3"],
    "::": ["::1", "fd12:3456:789a::5", "2001:db8::1"],
}


@pytest.fixture(autouse=True)
def _hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    def expand(host: str, *, loopback: bool = False) -> list[str]:
        return [found for found in HOSTS.get(host, [host]) if loopback or found not in ("127.0.0.1", "::1")]

    monkeypatch.setattr(advertisement, "expand_wildcard", expand)


def site(*, allow_loopback: bool = False) -> Site:
    return Site(
        region="home",
        domain="example",
        prefix_ipv6="fd12:3456:789a::/48",
        pool_ipv4="10.77.0.0/16",
        keys_dir=Path(),
        run_dir=Path(),
        state_dir=Path(),
        allow_loopback=allow_loopback,
        redis_url="",
        redis_password_file=None,
    )


def test_two_of_each_family_and_nothing_virtual() -> None:
    bound = [Endpoint("0.0.0.0", 7703), Endpoint("::", 7704)]
    assert [str(endpoint) for endpoint in advertised_endpoints(site(), bound)] == [
        "192.0.2.1:7703",
        "192.0.2.2:7703",
        "[2001:db8::1]:7704",
    ]


def test_loopback_comes_last_and_only_when_allowed() -> None:
    bound = [Endpoint("::", 7704)]
    assert [str(endpoint) for endpoint in advertised_endpoints(site(allow_loopback=True), bound)] == [
        "[2001:db8::1]:7704",
        "[::1]:7704",
    ]


def test_a_single_address_is_told_as_it_is() -> None:
    assert advertised_endpoints(site(), [Endpoint("192.0.2.9", 1)]) == [Endpoint("192.0.2.9", 1)]
