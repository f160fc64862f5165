from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cyphonic.errors import OperationalError
from cyphonic.node.resolvconf import ResolvConf, parse
from cyphonic.wire.endpoint import Endpoint

SERVER = Endpoint("127.53.53.53", 53)
ZONE = "home.cyphonic.internal"
ORIGINAL = (
    "# from DHCP\nnameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch example.com lan\noptions edns0 trust-ad\n"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "resolv.conf"
    path.parent.mkdir()
    path.write_text(ORIGINAL)
    return path


@pytest.fixture
def resolv_conf(tmp_path: Path, file: Path) -> ResolvConf:
    return ResolvConf(tmp_path / "state", file)


def test_servers_search_list_and_options_are_read_and_nonsense_left_out() -> None:
    parsed = parse("nameserver 192.0.2.53 # the router\n;nameserver 1.1.1.1\nnameserver x\nnameserver\n" + ORIGINAL)
    assert parsed.servers[:2] == (Endpoint("192.0.2.53", 53),) * 2
    assert parsed.servers[2] == Endpoint("2001:db8::53", 53)
    assert parsed.search == ("example.com", "lan")
    assert parsed.options == ("options edns0 trust-ad",)


def test_taking_over_names_our_server_alone_and_keeps_search_list_and_options(resolv_conf: ResolvConf) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    parsed = resolv_conf.read()
    assert parsed.servers == (SERVER,)
    assert parsed.search == (ZONE, "example.com", "lan")
    assert parsed.options == ("options edns0 trust-ad",)
    assert resolv_conf.ours
    assert resolv_conf.read_original().servers[0] == Endpoint("192.0.2.53", 53)


def test_giving_back_restores_every_byte_and_the_mode(resolv_conf: ResolvConf, file: Path) -> None:
    file.write_bytes(ORIGINAL.encode() + b"# caf\xe9, not UTF-8\n")
    file.chmod(0o640)
    before = file.read_bytes()
    resolv_conf.take_over(SERVER, ZONE)
    assert resolv_conf.give_back()
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o640
    assert not resolv_conf.give_back()
    assert [path.name for path in file.parent.iterdir()] == ["resolv.conf"]


def test_the_next_process_gives_back_what_a_killed_one_has_left(
    resolv_conf: ResolvConf, tmp_path: Path, file: Path
) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    assert ResolvConf(tmp_path / "state", file).give_back()
    assert file.read_text() == ORIGINAL


def test_whoever_has_changed_the_file_since_is_right(resolv_conf: ResolvConf, file: Path) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    file.write_text("nameserver 198.51.100.1\n")
    assert not resolv_conf.ours
    assert not resolv_conf.give_back()
    assert file.read_text() == "nameserver 198.51.100.1\n"
    resolv_conf.take_over(SERVER, ZONE)
    resolv_conf.give_back()
    assert file.read_text() == "nameserver 198.51.100.1\n"


@pytest.mark.parametrize("kept", [0, 40])
def test_a_crash_in_the_middle_of_writing_in_place_is_repaired(
    resolv_conf: ResolvConf, file: Path, kept: int
) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    os.truncate(file, kept)
    assert resolv_conf.give_back()
    assert file.read_text() == ORIGINAL


def test_a_symbolic_link_is_a_symbolic_link_again(resolv_conf: ResolvConf, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "run-resolv.conf"
    file.rename(target)
    file.symlink_to(target)
    resolv_conf.take_over(SERVER, ZONE)
    assert resolv_conf.read().servers == (SERVER,)
    assert target.read_text() == ORIGINAL
    resolv_conf.give_back()
    assert Path(os.readlink(file)) == target
    assert file.read_text() == ORIGINAL


def test_where_there_was_no_file_there_is_none_afterwards(resolv_conf: ResolvConf, file: Path) -> None:
    file.unlink()
    resolv_conf.take_over(SERVER, ZONE)
    assert resolv_conf.read().servers == (SERVER,)
    resolv_conf.give_back()
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_left_alone_and_leaves_no_backup(tmp_path: Path) -> None:
    directory = tmp_path / "resolv.conf"
    directory.mkdir()
    resolv_conf = ResolvConf(tmp_path / "state", directory)
    with pytest.raises(OperationalError, match="cannot be written"):
        resolv_conf.take_over(SERVER, ZONE)
    assert not resolv_conf.give_back()


def test_a_damaged_backup_is_named(resolv_conf: ResolvConf, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "resolv.conf.backup").write_text("{")
    with pytest.raises(OperationalError, match=r"resolv\.conf\.backup"):
        resolv_conf.give_back()


VPN = "# from a VPN\nnameserver 10.8.0.1\n"


def test_our_own_text_put_back_by_a_vpn_is_never_taken_for_an_original(resolv_conf: ResolvConf, file: Path) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    what_the_vpn_saved = file.read_text()
    file.write_text(VPN)
    resolv_conf.give_back()
    resolv_conf.take_over(SERVER, ZONE)
    assert resolv_conf.read_original().servers == (Endpoint("10.8.0.1", 53),)
    file.write_text(what_the_vpn_saved)  # the VPN ends
    assert not resolv_conf.ours
    resolv_conf.give_back()
    resolv_conf.take_over(SERVER, ZONE)
    assert resolv_conf.read_original().servers[0] == Endpoint("192.0.2.53", 53)
    assert resolv_conf.give_back()
    assert file.read_text() == ORIGINAL


def test_our_text_that_a_vpn_puts_back_after_we_have_gone_is_put_right_by_down(
    resolv_conf: ResolvConf, file: Path, tmp_path: Path
) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    what_the_vpn_saved = file.read_text()
    file.write_text(VPN)
    assert not resolv_conf.give_back()
    file.write_text(what_the_vpn_saved)
    assert ResolvConf(tmp_path / "state", file).give_back()
    assert file.read_text() == ORIGINAL


def test_our_text_that_a_vpn_puts_back_is_not_the_next_start_s_original(
    resolv_conf: ResolvConf, file: Path, tmp_path: Path
) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    ours = file.read_text()
    resolv_conf.give_back()
    file.write_text(ours)
    later = ResolvConf(tmp_path / "state", file)
    later.take_over(SERVER, ZONE)
    assert later.read_original().servers[0] == Endpoint("192.0.2.53", 53)


def test_only_so_many_taking_overs_are_remembered(resolv_conf: ResolvConf, file: Path, tmp_path: Path) -> None:
    for number in range(1, 40):
        file.write_text(f"nameserver 192.0.2.{number}\n")
        resolv_conf.take_over(SERVER, ZONE)
        resolv_conf.give_back()
    assert (tmp_path / "state" / "resolv.conf.last").stat().st_size < 16384


def test_servers_behind_a_symbolic_link_are_those_of_now(
    resolv_conf: ResolvConf, file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "run-resolv.conf"
    file.rename(target)
    file.symlink_to(target)
    resolv_conf.take_over(SERVER, ZONE)
    target.write_text(VPN)  # the network manager has found another network
    assert resolv_conf.read_original().servers == (Endpoint("10.8.0.1", 53),)


def test_a_file_that_cannot_be_read_now_loses_no_backup(
    resolv_conf: ResolvConf, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolv_conf.take_over(SERVER, ZONE)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", out_of_descriptors)
        with pytest.raises(OperationalError, match="cannot be read: Too many open files"):
            resolv_conf.give_back()
    assert resolv_conf.give_back()
    assert file.read_text() == ORIGINAL


def out_of_descriptors(*_: object, **__: object) -> str:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
