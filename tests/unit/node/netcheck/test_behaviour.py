from __future__ import annotations

import pytest

from cyphonic.node.netcheck.behaviour import Dependence, classify_filtering, classify_mapping
from cyphonic.wire.endpoint import Endpoint

A1, A2 = Endpoint("192.0.2.1", 1), Endpoint("192.0.2.1", 2)
B1, B2 = Endpoint("192.0.2.2", 1), Endpoint("192.0.2.2", 2)
X, Y, Z = (Endpoint("203.0.113.1", port) for port in (10, 20, 30))


@pytest.mark.parametrize(
    ("observed", "kind"),
    [
        ({A1: X, A2: X, B1: X, B2: X}, Dependence.NONE),
        ({A1: X, B1: X}, Dependence.NONE),
        ({A1: X, A2: X, B1: Y, B2: Y}, Dependence.ADDRESS),
        ({A1: X, A2: X, B1: Y}, Dependence.ADDRESS),
        ({A1: X, A2: Y, B1: Z}, Dependence.ADDRESS_AND_PORT),
        ({A1: X, A2: Y}, Dependence.ADDRESS_AND_PORT),
    ],
)
def test_a_mapping_is_named_as_rfc_4787_does(observed: dict[Endpoint, Endpoint], kind: Dependence) -> None:
    assert classify_mapping(observed) == (kind, "")


@pytest.mark.parametrize(
    ("observed", "why"),
    [
        ({}, "no relay answers"),
        ({A1: X}, "only one relay, with one port"),
        ({A1: X, A2: X}, "only one relay"),
        ({A1: X, B1: Y}, "no relay has a second one"),
    ],
)
def test_what_cannot_be_told_of_a_mapping_is_unknown_with_the_reason(
    observed: dict[Endpoint, Endpoint], why: str
) -> None:
    kind, said = classify_mapping(observed)
    assert kind is Dependence.UNKNOWN
    assert why in said


@pytest.mark.parametrize(
    ("other_port", "other_address", "kind"),
    [
        (True, True, Dependence.NONE),
        (None, True, Dependence.NONE),
        (True, False, Dependence.ADDRESS),
        (False, False, Dependence.ADDRESS_AND_PORT),
        (False, None, Dependence.ADDRESS_AND_PORT),
        (True, None, Dependence.UNKNOWN),
        (None, False, Dependence.UNKNOWN),
        (None, None, Dependence.UNKNOWN),
    ],
)
def test_filtering_is_named_as_rfc_4787_does(
    other_port: bool | None, other_address: bool | None, kind: Dependence
) -> None:
    found = classify_filtering(other_port=other_port, other_address=other_address)
    assert found.kind is kind
    assert bool(found.why) is (kind is Dependence.UNKNOWN)
