from pathlib import Path

import msgspec
import pytest

from cyphonic.configuration import check_sections, choose_file, load
from cyphonic.errors import ConfigurationError
from cyphonic.wire.endpoint import Endpoint


class Section(msgspec.Struct, frozen=True):
    listen: tuple[Endpoint, ...] = ()
    processes: int = 2
    relay: bool = True
    patience: float = 0.5
    file: Path = Path("/default")
    metrics: Endpoint | None = None

    def __post_init__(self) -> None:
        if self.processes > 64:
            raise ValueError("processes: at most 64")


class Needy(msgspec.Struct, frozen=True):
    prefix: str


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "cloud.toml"
    made.write_text(
        '[part]\nprocesses = 3\nlisten = ["192.0.2.1:7", "[2001:db8::1]:8"]\nfile = "keys/a"\npatience = 1\n'
    )
    return made


def read(file: Path | None, environ: dict[str, str] | None = None, **flags: object) -> Section:
    return load(Section, section="part", file=file, environ=environ or {}, flags=flags)


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(file: Path) -> None:
    environ = {"CYPHONIC_PART_PROCESSES": "4"}
    assert read(None).processes == 2
    assert read(file).processes == 3
    assert read(file, environ).processes == 4
    assert read(file, environ, processes=5).processes == 5
    assert read(file, environ, processes=None).processes == 4


def test_values_have_their_types_wherever_they_come_from(file: Path) -> None:
    section = read(file, {"CYPHONIC_PART_RELAY": "false", "CYPHONIC_PART_METRICS": "127.0.0.1:9"})
    assert section.listen == (Endpoint("192.0.2.1", 7), Endpoint("2001:db8::1", 8))
    assert (section.relay, section.patience, section.metrics) == (False, 1.0, Endpoint("127.0.0.1", 9))
    assert read(None, {"CYPHONIC_PART_LISTEN": "192.0.2.1:7, [2001:db8::1]:8"}).listen == section.listen


def test_a_path_in_a_file_is_relative_to_that_file(file: Path) -> None:
    assert read(file).file == file.parent / "keys/a"
    assert read(file, {"CYPHONIC_PART_FILE": "here"}).file == Path("here")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[part", ["not valid TOML"]),
        ("part = 3", ["not a [section]"]),
        ("[part]\nprocessess = 3", ["[part]", "'processess'"]),
        ('[part]\nprocesses = "3"', ["[part] processes", "Expected `int`"]),
        ("[part]\nprocesses = 65", ["[part]", "processes: at most 64"]),
        ('[part]\nlisten = "7"', ["[part] listen", "'7' is not ADDRESS:PORT"]),
        ("[part]\nlisten = 7", ["[part] listen", "expected a list"]),
        ('[part]\nlisten = ["2001:db8::1:8"]', ["[part] listen", "[brackets]"]),
        ("[part]\nfile = 1", ["[part] file", "expected text"]),
    ],
)
def test_a_broken_file_is_named_with_key_and_reason(tmp_path: Path, text: str, parts: list[str]) -> None:
    broken = tmp_path / "cloud.toml"
    broken.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read(broken)
    assert caught.value.exit_code == 2
    for part in (str(broken), *parts):
        assert part in caught.value.message


def test_a_mistyped_key_or_section_gets_a_suggestion(tmp_path: Path) -> None:
    broken = tmp_path / "cloud.toml"
    broken.write_text("[part]\nprocesess = 3\n")
    with pytest.raises(ConfigurationError) as caught:
        read(broken)
    assert caught.value.hint == "did you mean 'processes'?"
    with pytest.raises(ConfigurationError) as caught:
        check_sections(broken, ["parts", "other"])
    assert caught.value.hint == "did you mean 'parts'?"


def test_a_broken_variable_or_flag_is_named() -> None:
    with pytest.raises(ConfigurationError, match="CYPHONIC_PART_PROCESSES"):
        read(None, {"CYPHONIC_PART_PROCESSES": "many"})
    with pytest.raises(ConfigurationError, match="--metrics"):
        read(None, metrics="nowhere")


def test_a_key_without_default_must_be_given(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="prefix: missing"):
        load(Needy, section="none", file=file, environ={})


def test_the_file_is_the_flags_else_the_variables_else_the_default_if_there(file: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert choose_file(absent, {"CYPHONIC_CONFIG": str(file)}, file) == absent
    assert choose_file(None, {"CYPHONIC_CONFIG": str(absent)}, file) == absent
    assert choose_file(None, {}, file) == file
    assert choose_file(None, {}, absent) is None
    with pytest.raises(ConfigurationError, match="no such file"):
        read(absent)
