"""The route table, row by row."""

from __future__ import annotations

import pytest

from cyphonic.errors import MalformedError
from cyphonic.protocol.route import Whereabouts, decide_route, usable_candidates
from cyphonic.wire.direction import FirstPath
from cyphonic.wire.endpoint import Endpoint

V4_A, V4_B = Endpoint("198.51.100.1", 4000), Endpoint("198.51.100.2", 4000)
V6_A, V6_B = Endpoint("2001:db8::a", 4000), Endpoint("2001:db8::b", 4000)
LOCAL_A, LOCAL_B = Endpoint("192.168.1.10", 4000), Endpoint("192.168.1.11", 4000)
NAPT_A, NAPT_B = Endpoint("203.0.113.7", 61000), Endpoint("203.0.113.8", 61000)

OPEN_4 = Whereabouts({4: V4_A}, [V4_A])
OTHER_OPEN_4 = Whereabouts({4: V4_B}, [V4_B])
OPEN_6 = Whereabouts({6: V6_A}, [V6_A])
DUAL = Whereabouts({4: V4_B, 6: V6_B}, [V4_B, V6_B])
BEHIND_A = Whereabouts({4: NAPT_A}, [LOCAL_A])
BEHIND_A_TOO = Whereabouts({4: NAPT_A._replace(port=61001)}, [LOCAL_B])
BEHIND_B = Whereabouts({4: NAPT_B}, [LOCAL_B])
BEHIND_A_WITH_6 = Whereabouts({4: NAPT_A, 6: V6_A}, [LOCAL_A, V6_A])
NOWHERE = Whereabouts({}, [])


@pytest.mark.parametrize(
    ("initiator", "responder", "first_path"),
    [
        (OPEN_4, OTHER_OPEN_4, FirstPath.DIRECT),
        (BEHIND_A, OPEN_4, FirstPath.DIRECT),
        (OPEN_4, BEHIND_A, FirstPath.DIRECT_PUNCHED),
        (BEHIND_A, BEHIND_B, FirstPath.RELAYED),
        (BEHIND_A, BEHIND_A_TOO, FirstPath.LAN_AND_RELAYED),
        (OPEN_4, OPEN_6, FirstPath.RELAYED_ONLY),
        (OPEN_6, OPEN_4, FirstPath.RELAYED_ONLY),
        (OPEN_4, DUAL, FirstPath.DIRECT),
        (OPEN_6, DUAL, FirstPath.DIRECT),
        (DUAL, BEHIND_A, FirstPath.DIRECT_PUNCHED),
        (BEHIND_A_WITH_6, DUAL, FirstPath.DIRECT),
        (DUAL, BEHIND_A_WITH_6, FirstPath.DIRECT),
        (BEHIND_B, BEHIND_A_WITH_6, FirstPath.RELAYED),
        (NOWHERE, OPEN_4, FirstPath.RELAYED_ONLY),
    ],
)
def test_the_first_path_is_the_best_that_a_common_family_offers(
    initiator: Whereabouts, responder: Whereabouts, first_path: FirstPath
) -> None:
    assert decide_route(initiator, responder) is first_path


def test_observed_endpoints_come_first_and_none_twice() -> None:
    assert BEHIND_A_WITH_6.paths(BEHIND_A_WITH_6) == [NAPT_A, V6_A, LOCAL_A]


def test_private_addresses_are_named_behind_the_same_napt_only() -> None:
    stranger = Whereabouts({4: NAPT_B, 6: V6_A}, [Endpoint("192.168.1.77", 4000)])
    assert BEHIND_A_WITH_6.paths(stranger) == [NAPT_A, V6_A]
    open_within = Whereabouts({4: LOCAL_A}, [LOCAL_A])
    assert open_within.paths(stranger) == [LOCAL_A]


def test_at_most_ten_endpoints_are_given() -> None:
    many = [Endpoint("192.168.1.10", port) for port in range(1, 20)]
    assert len(Whereabouts({4: NAPT_A, 6: V6_A}, many).paths(BEHIND_A_WITH_6)) == 10


def test_only_candidates_that_a_peer_may_be_sent_to_are_kept() -> None:
    bad = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"]
    bad += ["::", "::1", "ff02::1", "fe80::1", "::ffff:127.0.0.1"]
    encoded = [Endpoint(host, 4000).encode() for host in [*bad, "192.168.1.10", "192.168.1.10", "2001:db8::a"]]
    assert usable_candidates(encoded, allow_loopback=False) == [LOCAL_A, V6_A]


def test_loopback_is_kept_where_a_site_allows_it() -> None:
    loopback = [Endpoint("127.0.0.1", 4000), Endpoint("::1", 4000)]
    assert usable_candidates([one.encode() for one in loopback], allow_loopback=True) == loopback


def test_what_is_no_endpoint_is_malformed() -> None:
    with pytest.raises(MalformedError):
        usable_candidates([b"\x7f\0\0\x01\0\0"], allow_loopback=False)


def test_of_one_address_two_candidates_count_for_it_may_be_a_strangers() -> None:
    named = [Endpoint("203.0.113.99", port) for port in range(53, 60)]
    assert usable_candidates([one.encode() for one in [*named, V4_A]], allow_loopback=False) == [*named[:2], V4_A]
