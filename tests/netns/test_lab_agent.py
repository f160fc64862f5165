"""The measuring application, on a plain network: names come from the hosts' own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.measure import Agent, MeasurementError


@pytest.fixture
def agents(make_lab: Callable[[str], Lab]) -> Iterator[dict[str, Agent]]:
    lab = make_lab("two-nodes")
    (lab.namespace("alice").etc / "hosts").write_text(f"{lab.address('bob', 6)} bob\n2001:db8:1::99 nobody\n")
    with Agent(lab, "alice") as alice, Agent(lab, "bob") as bob:
        yield {"alice": alice, "bob": bob}


def test_a_name_is_resolved_reached_pinged_and_sent_to(agents: dict[str, Agent]) -> None:
    reached = agents["alice"].reach("bob", 5.0)
    assert 0 < reached.resolved < reached.answered
    assert agents["alice"].ping(reached.address).lost == 0
    transferred = agents["alice"].transfer("bob", 1_000_000, 10.0)
    assert len(bytes.fromhex(transferred.sha256)) == 32
    assert transferred.seconds > 0


def test_failures_say_what_did_not_work(agents: dict[str, Agent]) -> None:
    with pytest.raises(MeasurementError, match="alice: carol does not resolve"):
        agents["alice"].reach("carol", 0.2)
    with pytest.raises(MeasurementError, match="2001:db8:1::99 does not answer"):
        agents["alice"].reach("nobody", 0.5)
    with pytest.raises(MeasurementError, match="none of 2 echo requests"):
        agents["alice"].ping("2001:db8:1::99", count=2, timeout=0.1)
    agents["bob"].close()
    with pytest.raises(MeasurementError, match=r"alice: .*refused"):
        agents["alice"].transfer("bob", 1000, 5.0)
