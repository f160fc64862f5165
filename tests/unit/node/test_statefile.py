from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec
import pytest

from cyphonic.errors import OperationalError
from cyphonic.node.statefile import KnownCloud, NodeState, StateFile
from cyphonic.wire.endpoint import Endpoint

CLOUD = KnownCloud("home", "cyphonic.internal", (Endpoint("192.0.2.1", 7701),), b"a" * 32, b"v" * 32)
STATE = NodeState(b"s" * 32, CLOUD, name="alice", stamp=7)


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state")


def test_a_machine_that_never_joined_has_no_state(file: StateFile) -> None:
    assert file.load() is None


def test_what_is_saved_is_loaded(file: StateFile) -> None:
    file.save(STATE)
    assert file.load() == STATE
    later = msgspec.structs.replace(STATE, fqdn="alice.home.cyphonic.internal", stamp=8)
    file.save(later)
    assert file.load() == later


def test_only_the_owner_can_read_it_whatever_the_umask(file: StateFile) -> None:
    before = os.umask(0)
    try:
        file.save(STATE)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_the_secret_does_not_show_in_repr() -> None:
    assert "s" * 32 not in repr(STATE)
    assert str(STATE.secret) not in f"{STATE}"


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_state_intact(
    file: StateFile, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file.save(STATE)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        monkeypatch.setattr("cyphonic.node.statefile._write", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OperationalError, match="No space left"):
        file.save(msgspec.structs.replace(STATE, stamp=99))
    assert file.load() == STATE
    assert [path.name for path in file.path.parent.iterdir()] == ["node.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"secret": "QUJD"}', b"\xff\xfe", b'{"secret": 5}'],
)
def test_a_damaged_file_is_named_with_what_to_do(file: StateFile, content: bytes) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with pytest.raises(OperationalError, match=r"node\.json is damaged") as caught:
        file.load()
    assert "enrol again" in caught.value.hint


def test_a_short_key_and_a_foreign_version_are_refused(file: StateFile) -> None:
    for state in (
        msgspec.structs.replace(STATE, secret=b"short"),
        msgspec.structs.replace(STATE, schema_version=9),
    ):
        file.save(state)
        with pytest.raises(OperationalError):
            file.load()
