import importlib

import click
import pytest
from click.testing import CliRunner

from cyphonic import __version__, cli
from cyphonic.errors import ConfigurationError, OperationalError, PeerUnreachableError


@pytest.mark.parametrize(
    "error", [OperationalError("broken"), ConfigurationError("broken", "do this"), PeerUnreachableError("broken")]
)
def test_an_operational_error_becomes_message_hint_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: OperationalError
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli._Root, "get_command", lambda *_: failing)
    result = CliRunner().invoke(cli.main, ["anything"])
    assert result.exit_code == error.exit_code
    assert result.stderr == "cyphonic: broken\n" + (f"  {error.hint}\n" if error.hint else "")


def test_wrong_usage_ends_with_2() -> None:
    assert CliRunner().invoke(cli.main, ["nonsense"]).exit_code == 2


def test_help_documents_the_exit_codes_and_imports_no_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"imported {name}"))
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    assert "6  denied by policy" in result.output


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(cli.main, ["--version"]).output == f"cyphonic {__version__}\n"
