"""Nodes as the operator sees them: list, show, put out, forget."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cyphonic.admin.enrolment import moment
from cyphonic.admin.revocation import Drive, OrderPipe, drive
from cyphonic.errors import OperationalError
from cyphonic.pipeline import Pipeline
from cyphonic.site import Site, SiteKeys
from cyphonic.state.fleet import read_fleet
from cyphonic.state.registry import (
    NodeStatus,
    delete_node,
    list_nodes,
    pending_revocation_acks,
    revoke_node,
    show_node,
)
from cyphonic.state.store import Store


class UnknownNodeError(OperationalError):
    """Nobody of that name, FQDN, node ID or address is enrolled."""

    def __init__(self, selector: str) -> None:
        super().__init__(f"{selector}: no such node in this region", "see: cyphonic admin node list")


def all_nodes(store: Store) -> list[NodeStatus]:
    """Every enrolled node, by name."""
    return list_nodes(store)


def find(store: Store, selector: str) -> NodeStatus:
    """By name, FQDN, node ID (hexadecimal) or virtual address; raise UnknownNodeError."""
    node = show_node(store, selector)
    if node is None:
        raise UnknownNodeError(selector)
    return node


def revoke(site: Site, store: Store, node: NodeStatus, wall: float) -> Drive | None:
    """Put a node out and see that its peers hear of it.

    None: it was put out, but there is nobody to carry the news (no frontend runs, or it never had an address).
    """
    node_id = revoke_node(store, node.name, wall=wall)
    if node_id is None:
        raise UnknownNodeError(node.name)
    fleet = read_fleet(store)
    if not node_id or not fleet.frontends:
        return None
    online = _online(store, node)
    clock = _RealClock()
    curve = SiteKeys(site.keys_dir).curve(site.pipeline)
    with Pipeline(site.pipeline, site.pipeline_dir, curve) as pipeline:
        pipe = OrderPipe(pipeline, site, fleet, os.urandom, clock.now())
        try:
            return drive(
                lambda: pipe.order(node_id), lambda: pending_revocation_acks(store, node_id), online, clock
            )
        finally:
            pipe.close()


def _online(store: Store, revoked: NodeStatus) -> Callable[[bytes], bool]:
    """Who had a lease just now.  The revoked node had one too, though it counts no longer."""
    up = {node.node_id for node in list_nodes(store) if node.online}
    if revoked.leases:
        up.add(revoked.node_id)
    return up.__contains__


class _RealClock:
    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def delete(site: Site, store: Store, node: NodeStatus, wall: float) -> Drive | None:
    """Put a node out, then forget it: its name is free at once, its addresses after a rest."""
    outcome = revoke(site, store, node, wall)
    delete_node(store, node.name, wall=wall)
    return outcome


def names(store: Store) -> dict[bytes, str]:
    """Of every node by its ID."""
    return {node.node_id: node.name for node in list_nodes(store) if node.node_id}


def state_of(node: NodeStatus) -> str:
    """In one word."""
    if node.revoked:
        return "revoked"
    return "online" if node.online else "offline"


def as_json(node: NodeStatus) -> dict[str, object]:
    """For --json."""
    return {
        "name": node.name,
        "fqdn": node.fqdn,
        "state": state_of(node),
        "node_id": node.node_id.hex(),
        "static_key": node.static_key.hex(),
        "virtual_ipv6": node.virtual_ipv6,
        "virtual_ipv4": node.virtual_ipv4,
        "generation": node.generation,
        "certificate_expires": node.certificate_expires or None,
        "leases": [
            {
                "family": f"ipv{family}",
                "observed": str(lease.observed),
                "service": str(lease.service),
                "candidates": [str(candidate) for candidate in lease.candidates],
                "refreshed": lease.refreshed / 1000,
            }
            for family, lease in sorted(node.leases.items())
        ],
    }


def as_row(node: NodeStatus) -> list[str]:
    """For the table."""
    endpoints = ", ".join(str(lease.observed) for _, lease in sorted(node.leases.items()))
    return [node.name, state_of(node), node.virtual_ipv6 or "-", node.virtual_ipv4 or "-", endpoints or "-"]


def as_lines(node: NodeStatus) -> list[tuple[str, str]]:
    """For ``show``."""
    lines = [
        ("name", node.fqdn or f"{node.name} (has not finished a login yet)"),
        ("state", state_of(node)),
        ("virtual addresses", " ".join(filter(None, (node.virtual_ipv6, node.virtual_ipv4))) or "-"),
        ("node ID", node.node_id.hex() or "-"),
        ("static key", node.static_key.hex()),
        ("generation", str(node.generation)),
        ("certificate until", moment(node.certificate_expires) if node.certificate_expires else "-"),
    ]
    for family, lease in sorted(node.leases.items()):
        lines.append((f"IPv{family}", f"{lease.observed}, registered at {lease.service}"))
        lines.append(("", "candidates " + (" ".join(map(str, lease.candidates)) or "-")))
    return lines
