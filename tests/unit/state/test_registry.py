"""Enrolment keys and nodes as the administrator sees them, in a real Redis."""

from __future__ import annotations

import pytest

from cyphonic.state import registry
from cyphonic.state.store import Store

WALL = 1_700_000_000.0


def test_a_new_key_is_listed_without_its_secret(store: Store) -> None:
    secret = registry.create_enrolment_key(store, wall=WALL, expires_at=WALL + 60)
    (key,) = registry.list_enrolment_keys(store)
    assert len(secret) == 32
    assert (key.uses, key.used, key.expires, key.revoked) == (1, 0, WALL + 60, False)
    assert key.usable(WALL)
    assert not key.usable(WALL + 60)


def test_a_key_is_revoked_by_the_beginning_of_its_id(store: Store) -> None:
    registry.create_enrolment_key(store, wall=WALL, uses=None)
    (key,) = registry.list_enrolment_keys(store)
    revoked = registry.revoke_enrolment_key(store, key.id[:6])
    assert revoked is not None
    assert revoked.revoked
    assert not revoked.usable(WALL)


def test_no_key_is_revoked_when_none_or_several_are_meant(store: Store) -> None:
    registry.create_enrolment_key(store, wall=WALL)
    assert registry.revoke_enrolment_key(store, "") is None
    assert registry.revoke_enrolment_key(store, "zz") is None


def test_a_key_that_fixes_a_name_enrols_one_node(store: Store) -> None:
    registry.create_enrolment_key(store, wall=WALL, name="printer")
    with pytest.raises(ValueError, match="one node"):
        registry.create_enrolment_key(store, wall=WALL, name="printer", uses=None)
    with pytest.raises(ValueError, match="not a name"):
        registry.create_enrolment_key(store, wall=WALL, name="Printer!")


def test_a_region_without_nodes_lists_none(store: Store) -> None:
    assert registry.list_nodes(store) == []
    assert registry.show_node(store, "nobody") is None
    assert registry.revoke_node(store, "nobody", wall=WALL) is None
    assert registry.delete_node(store, "10.77.0.9", wall=WALL) is None
