import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyphonic.bundle import Bundle
from cyphonic.errors import ConfigurationError
from cyphonic.wire.endpoint import Endpoint

BUNDLE = Bundle(
    region="main",
    domain="cyphonic.example",
    as_endpoints=(Endpoint("192.0.2.1", 7700), Endpoint("2001:db8::1", 7700)),
    as_key=b"\x01" * 32,
    as_verify_key=b"\x02" * 32,
    enrolment_key=b"\x03" * 32,
    name="pump-7",
)


def test_a_bundle_reads_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "pump.bundle"
    BUNDLE.write(file)
    assert Bundle.load(file) == BUNDLE
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_bundle_without_a_fixed_name_leaves_the_choice_to_the_node() -> None:
    text = "".join(line for line in BUNDLE.dump().splitlines(keepends=True) if not line.startswith("name"))
    assert Bundle.parse(text.encode(), "here").name == ""


def test_a_bundle_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BUNDLE.dump().encode())))
    assert Bundle.load("-") == BUNDLE


def test_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "pump.bundle"
    BUNDLE.write(file)
    with pytest.raises(ConfigurationError, match="exists and is not overwritten"):
        BUNDLE.write(file)


def test_a_bundle_shows_no_secret() -> None:
    assert "AwMD" not in repr(BUNDLE)
    assert "x03" not in repr(BUNDLE)


@pytest.mark.parametrize(
    ("key", "line", "reason"),
    [
        ("version", "version = 2", "is not 1"),
        ("version", "", "missing"),
        ("region", 'region = "a b"', "is not a DNS name"),
        ("domain", "domain = 5", "expected text, got 5"),
        ("as_endpoints", "as_endpoints = []", "at least one"),
        ("as_endpoints", 'as_endpoints = "192.0.2.1:1"', "expected a list"),
        ("as_endpoints", 'as_endpoints = ["192.0.2.1"]', "is not ADDRESS:PORT"),
        ("as_key", 'as_key = "AAAA"', "32 bytes in base64, not 3"),
        ("as_verify_key", "", "missing"),
        ("enrolment_key", 'enrolment_key = "?"', "44 characters of base64"),
        ("name", 'name = ""', "is not a DNS name"),
    ],
)
def test_a_broken_bundle_is_refused_with_the_key_and_the_reason(key: str, line: str, reason: str) -> None:
    lines = [line if old.startswith(f"{key} ") else old for old in BUNDLE.dump().splitlines()]
    with pytest.raises(ConfigurationError) as caught:
        Bundle.parse("\n".join(lines).encode(), "pump.bundle")
    assert caught.value.message.startswith(f"pump.bundle: {key}: ")
    assert reason in caught.value.message
    assert "cyphonic admin key create" in caught.value.hint


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="colour: no key that an enrolment bundle has"):
        Bundle.parse((BUNDLE.dump() + 'colour = "red"\n').encode(), "here")


def test_a_damaged_bundle_is_refused_with_the_line() -> None:
    with pytest.raises(ConfigurationError, match=r"damaged: .*line 3"):
        Bundle.parse(BUNDLE.dump().replace("version = 1", "version = = 1").encode(), "here")


@pytest.mark.parametrize("data", [b"", b"  \n", b"\xff\xfe", b"#" * 20000])
def test_what_is_no_bundle_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigurationError):
        Bundle.parse(data, "here")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such enrolment bundle"):
        Bundle.load(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory") as caught:
        Bundle.load(tmp_path)
    assert "sudo" not in caught.value.hint


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_no_flipped_bit_does_more_than_raise_a_configuration_error(position: int, bit: int) -> None:
    data = bytearray(BUNDLE.dump().encode())
    data[position % len(data)] ^= 1 << bit
    with contextlib.suppress(ConfigurationError):
        Bundle.parse(bytes(data), "here")
