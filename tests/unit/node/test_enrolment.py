from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from cyphonic.bundle import Bundle
from cyphonic.errors import ConfigurationError, NotEnrolledError, OperationalError
from cyphonic.node.enrolment import Enrolment, enrol, name_of_host
from cyphonic.node.statefile import StateFile
from cyphonic.wire.endpoint import Endpoint

BUNDLE = Bundle(
    region="home",
    domain="cyphonic.internal",
    as_endpoints=(Endpoint("192.0.2.1", 7701),),
    as_key=b"a" * 32,
    as_verify_key=b"v" * 32,
    enrolment_key=b"e" * 32,
)


class Chance:
    """Different bytes at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return bytes([self.calls]) * count


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path)


@pytest.fixture
def chance() -> Chance:
    return Chance()


def first(file: StateFile, chance: Chance) -> Enrolment:
    return enrol(file, BUNDLE, "", "alice.lan", chance)


def test_the_key_is_on_disk_before_the_first_login_and_the_enrolment_key_is_not(
    file: StateFile, chance: Chance
) -> None:
    enrolment = first(file, chance)
    assert file.load() == enrolment.state
    assert enrolment.state.secret == b"\1" * 32
    assert enrolment.state.name == "alice"
    assert enrolment.enrolment_key == b"e" * 32
    assert b"ZWVlZWVl" not in file.path.read_bytes()  # base64 of "eee..."


def test_later_no_bundle_is_needed(file: StateFile, chance: Chance) -> None:
    state = first(file, chance).state
    assert enrol(file, None, "", "alice.lan", chance) == Enrolment(state, b"")


def test_a_machine_that_never_joined_needs_one(file: StateFile, chance: Chance) -> None:
    with pytest.raises(NotEnrolledError) as caught:
        enrol(file, None, "", "alice", chance)
    assert "--enrol" in caught.value.hint


def test_another_bundle_of_the_same_cloud_keeps_the_identity(file: StateFile, chance: Chance) -> None:
    before = first(file, chance).state
    moved = msgspec.structs.replace(BUNDLE, as_endpoints=(Endpoint("192.0.2.2", 7701),))
    after = enrol(file, moved, "", "alice", chance).state
    assert after.secret == before.secret
    assert after.cloud.as_endpoints == moved.as_endpoints


def test_a_bundle_of_another_cloud_makes_a_new_identity_and_keeps_the_old_one_aside(
    file: StateFile, chance: Chance
) -> None:
    before = first(file, chance).state
    other = msgspec.structs.replace(BUNDLE, as_key=b"b" * 32, region="office")
    after = enrol(file, other, "", "alice", chance).state
    assert after.secret != before.secret
    aside = msgspec.json.decode((file.path.parent / "node.json.old").read_bytes(), type=type(before))
    assert aside == before


def test_the_wanted_name_is_the_flag_then_the_bundles_then_the_hosts(tmp_path: Path, chance: Chance) -> None:
    fixed = msgspec.structs.replace(BUNDLE, name="sensor-1")
    assert enrol(StateFile(tmp_path / "a"), fixed, "bob", "alice", chance).state.name == "bob"
    assert enrol(StateFile(tmp_path / "b"), fixed, "", "alice", chance).state.name == "sensor-1"
    assert enrol(StateFile(tmp_path / "c"), BUNDLE, "", "alice", chance).state.name == "alice"


def test_a_node_may_change_its_mind_until_the_cloud_has_named_it(file: StateFile, chance: Chance) -> None:
    state = first(file, chance).state
    assert enrol(file, None, "bob", "alice", chance).state.name == "bob"
    file.save(msgspec.structs.replace(state, fqdn="alice.home.cyphonic.internal"))
    assert enrol(file, None, "bob", "alice", chance).state.name == "alice"


@pytest.mark.parametrize("name", ["Bob", "-bob", "bob.home", "b" * 64, "böb", "bob\n"])
def test_a_name_that_no_node_can_have_is_refused_before_anything_is_made(
    file: StateFile, chance: Chance, name: str
) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name"):
        enrol(file, BUNDLE, name, "alice", chance)
    assert file.load() is None


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("alice", "alice"), ("Alice's_Laptop.lan", "alice-s-laptop"), ("___", "node"), ("x" * 70, "x" * 63)],
)
def test_a_hosts_name_is_made_fit(hostname: str, name: str) -> None:
    assert name_of_host(hostname) == name


def test_a_revoked_identity_is_replaced_by_the_next_bundle(file: StateFile) -> None:
    chance = Chance()
    first = enrol(file, BUNDLE, "", "host", chance)
    file.save(msgspec.structs.replace(first.state, revoked=True))
    second = enrol(file, BUNDLE, "", "host", chance)
    assert second.state.secret != first.state.secret
    assert not second.state.revoked


def test_a_disk_too_full_for_another_identity_leaves_the_one_that_was_there(
    file: StateFile, chance: Chance, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = first(file, chance).state
    monkeypatch.setattr("cyphonic.node.statefile._write", full)
    other = msgspec.structs.replace(BUNDLE, as_key=b"o" * 32)
    with pytest.raises(OperationalError, match="No space left"):
        enrol(file, other, "", "alice.lan", chance)
    assert file.load() == state
    assert [path.name for path in file.path.parent.iterdir()] == ["node.json"]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
