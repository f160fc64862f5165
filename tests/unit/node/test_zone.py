from __future__ import annotations

import socket

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyphonic.node.zone import Action, Zone, server_failure
from cyphonic.protocol.overlay import LookedUp
from cyphonic.wire.direction import RefusalReason

ZONE = Zone.of("home.cyphonic.internal", "fd77:1:2::/48", "10.77.0.0/16")
IPV6 = socket.inet_pton(socket.AF_INET6, "fd77:1:2::5")
IPV4 = socket.inet_aton("10.77.0.5")
BOB = LookedUp("bob", "bob.home.cyphonic.internal", IPV6, IPV4)
BOB_V6_PTR = f"5.{'0.' * 19}2.0.0.0.1.0.0.0.7.7.d.f.ip6.arpa"


def query(name: str, kind: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, kind, **options).to_wire()  # type: ignore[arg-type]


def ask(name: str, kind: str = "A", found: LookedUp = BOB) -> dns.message.Message:
    verdict = ZONE.examine(query(name, kind))
    assert verdict.query is not None
    if verdict.action is Action.ANSWER:
        return dns.message.from_wire(ZONE.answer_at_once(verdict.query, verdict.code))
    assert verdict.action is Action.ASK
    return dns.message.from_wire(ZONE.answer(verdict.query, found))


def test_names_of_the_zone_are_asked_for_in_lower_case() -> None:
    verdict = ZONE.examine(query("BoB.Home.cyphonic.internal", "AAAA"))
    assert (verdict.action, verdict.target) == (Action.ASK, "bob.home.cyphonic.internal")


@pytest.mark.parametrize(("kind", "address"), [("A", "10.77.0.5"), ("AAAA", "fd77:1:2::5")])
def test_a_node_has_both_addresses(kind: str, address: str) -> None:
    response = ask("bob.home.cyphonic.internal", kind)
    assert response.rcode() == dns.rcode.NOERROR
    assert response.answer[0][0].to_text() == address
    assert 0 < response.answer[0].ttl <= 30
    assert response.flags & dns.flags.AA
    assert response.flags & dns.flags.RA


def test_the_answer_repeats_the_spelling_of_the_question() -> None:
    response = ask("BoB.home.cyphonic.internal")
    assert response.question[0].name.to_text() == response.answer[0].name.to_text() == "BoB.home.cyphonic.internal."


@pytest.mark.parametrize("kind", ["MX", "TXT", "SRV", "HTTPS", "SOA", "NS"])
def test_another_type_of_a_node_is_no_data_with_the_soa(kind: str) -> None:
    response = ask("bob.home.cyphonic.internal", kind)
    assert response.rcode() == dns.rcode.NOERROR
    assert not response.answer
    assert response.authority[0].rdtype == dns.rdatatype.SOA


def test_a_node_without_ipv4_address_has_no_a_record_but_exists() -> None:
    found = LookedUp("bob", "bob.home.cyphonic.internal", IPV6, b"")
    response = ask("bob.home.cyphonic.internal", "A", found)
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])


def test_an_offline_node_still_has_its_addresses() -> None:
    found = LookedUp("bob", "bob.home.cyphonic.internal", IPV6, IPV4, RefusalReason.OFFLINE)
    assert ask("bob.home.cyphonic.internal", "A", found).answer


@pytest.mark.parametrize("reason", [RefusalReason.UNKNOWN_NAME, RefusalReason.POLICY])
def test_a_name_that_no_node_has_does_not_exist(reason: RefusalReason) -> None:
    response = ask("eve.home.cyphonic.internal", "A", LookedUp("eve", reason=reason))
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert response.authority[0].rdtype == dns.rdatatype.SOA


@pytest.mark.parametrize("found", [LookedUp("bob", reachable=False), LookedUp("bob", reason=RefusalReason.STALE)])
def test_a_silent_cloud_is_a_server_failure_and_no_verdict_on_the_name(found: LookedUp) -> None:
    response = ask("bob.home.cyphonic.internal", "A", found)
    assert response.rcode() == dns.rcode.SERVFAIL
    assert not response.authority


@pytest.mark.parametrize("name", [BOB_V6_PTR, "5.0.77.10.in-addr.arpa"])
def test_a_virtual_address_has_a_name(name: str) -> None:
    verdict = ZONE.examine(query(name, "PTR"))
    assert verdict.target in (IPV6, IPV4)
    assert ask(name, "PTR").answer[0][0].to_text() == "bob.home.cyphonic.internal."
    assert not ask(name, "A").answer


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("home.cyphonic.internal", Action.ANSWER),
        ("a.bob.home.cyphonic.internal", Action.ANSWER),
        ("_dns.home.cyphonic.internal", Action.ANSWER),
        ("77.10.in-addr.arpa", Action.ANSWER),
        ("0.77.10.in-addr.arpa", Action.ANSWER),
        ("cyphonic.internal", Action.FORWARD),
        ("bob.office.cyphonic.internal", Action.FORWARD),
        ("nothome.cyphonic.internal", Action.FORWARD),
        ("bob", Action.FORWARD),
        (".", Action.FORWARD),
        ("example.com", Action.FORWARD),
        ("home.cyphonic.internal.example.com", Action.FORWARD),
        ("5.0.78.10.in-addr.arpa", Action.FORWARD),
        ("10.in-addr.arpa", Action.FORWARD),
        ("in-addr.arpa", Action.FORWARD),
        ("999.0.77.10.in-addr.arpa", Action.FORWARD),
        ("1.2.5.0.77.10.in-addr.arpa", Action.FORWARD),
        ("x.7.7.d.f.ip6.arpa", Action.FORWARD),
        ("b.a.8.b.d.0.1.0.0.2.ip6.arpa", Action.FORWARD),
    ],
)
def test_only_our_own_names_are_kept_from_the_upstreams(name: str, action: Action) -> None:
    assert ZONE.examine(query(name, "PTR")).action is action


def test_the_zone_itself_has_an_soa_and_names_below_a_node_do_not_exist() -> None:
    assert ask("home.cyphonic.internal", "SOA").answer[0].rdtype == dns.rdatatype.SOA
    assert ask("home.cyphonic.internal", "A").rcode() == dns.rcode.NOERROR
    assert ask("a.bob.home.cyphonic.internal").rcode() == dns.rcode.NXDOMAIN


def test_edns_is_answered_with_edns() -> None:
    verdict = ZONE.examine(query("bob.home.cyphonic.internal", use_edns=0, payload=4096))
    assert verdict.query is not None
    assert dns.message.from_wire(ZONE.answer(verdict.query, BOB)).edns == 0


def test_updates_and_other_classes_of_our_zone_are_not_served_and_not_passed_on() -> None:
    notify = dns.message.make_query("home.cyphonic.internal", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    assert ZONE.examine(notify.to_wire()).code == dns.rcode.NOTIMP
    chaos = dns.message.make_query("bob.home.cyphonic.internal", "TXT", "CH").to_wire()
    assert ZONE.examine(chaos).code == dns.rcode.REFUSED


def test_a_response_is_never_taken_for_a_question() -> None:
    response = dns.message.make_response(dns.message.make_query("example.com", "A"))
    assert ZONE.examine(response.to_wire()).action is Action.DROP


def test_a_server_failure_repeats_question_and_id() -> None:
    wire = query("example.com", "MX")
    response = dns.message.from_wire(server_failure(wire))
    assert response.rcode() == dns.rcode.SERVFAIL
    assert response.id == dns.message.from_wire(wire).id
    assert response.question[0].name.to_text() == "example.com."


def test_reverse_zones_are_named_where_networks_fill_them() -> None:
    assert ZONE.reverse_domains() == ["2.0.0.0.1.0.0.0.7.7.d.f.ip6.arpa", "77.10.in-addr.arpa"]
    assert Zone.of("home.x", "fd77:1:2::/48", "10.77.0.0/20").reverse_domains() == [
        "2.0.0.0.1.0.0.0.7.7.d.f.ip6.arpa"
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_sorted_without_harm(wire: bytes) -> None:
    verdict = ZONE.examine(wire)
    if verdict.query is not None:
        ZONE.answer(verdict.query, BOB)
        ZONE.answer_at_once(verdict.query, verdict.code)
    if len(wire) >= 12:
        assert len(server_failure(wire)) >= 12


@given(st.data())
def test_damaged_questions_for_our_zone_do_no_harm(data: st.DataObject) -> None:
    wire = bytearray(query("bob.home.cyphonic.internal", use_edns=0))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    verdict = ZONE.examine(bytes(wire))
    if verdict.query is not None:
        ZONE.answer(verdict.query, BOB)
        ZONE.answer_at_once(verdict.query, verdict.code)
