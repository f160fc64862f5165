"""A site in a lab, by the commands that a person would type."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cyphonic.lab.build import Lab
from cyphonic.lab.deployment import Deployment, RefusedError
from cyphonic.lab.tools import LabError


def test_nodes_join_leave_and_rejoin_without_a_key_and_the_cloud_stops_in_order(
    deploy: Callable[[str], Deployment],
) -> None:
    deployment = deploy("two-nodes")
    before = deployment.status("alice")
    assert before["state"] == "joined"
    deployment.down("alice")
    with pytest.raises(LabError, match="alice: the daemon does not answer"):
        deployment.status("alice")
    deployment.up("alice")
    after = json.loads(deployment.command("alice", "status", "--json"))
    assert (after["fqdn"], after["ipv6"], after["ipv4"]) == (before["fqdn"], before["ipv6"], before["ipv4"])
    deployment.ask("alice", "forget")
    with pytest.raises(RefusedError, match="no node nobody"):
        deployment.ask("alice", "ip", name="nobody")
    assert deployment.stop_cluster() == 0


def test_a_node_that_cannot_join_is_reported_with_its_logs(make_lab: Callable[[str], Lab]) -> None:
    deployment = Deployment(make_lab("two-nodes"))
    deployment.start_cloud()
    with pytest.raises(LabError, match=r"--- up\.log on alice") as caught:
        deployment.up("alice")  # no bundle
    assert "cyphonic up ended with 3" in caught.value.message


def test_a_topology_needs_exactly_one_cloud(make_lab: Callable[[str], Lab]) -> None:
    lab = make_lab('\n[network.alone]\nipv4 = "192.0.2.0/24"\n[host.one]\nnetwork = "alone"\n')
    with pytest.raises(LabError, match="0 hosts with the role cloud"):
        Deployment(lab)
