"""What an operator meets is documented: configuration keys, drop reasons, metrics, exit codes, commands."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache

import msgspec
import pytest
from click.testing import CliRunner

from cyphonic import errors
from cyphonic.cli import main
from tests.architecture.tree import ROOT, modules

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

SECTIONS = [
    ("cyphonic.site", "SiteSection"),
    ("cyphonic.site", "RedisSection"),
    ("cyphonic.frontend.config", "FrontendSection"),
    ("cyphonic.workers.config", "WorkerSection"),
    ("cyphonic.relay.config", "RelaySection"),
    ("cyphonic.cluster.config", "ClusterSection"),
    ("cyphonic.node.config", "NodeConfig"),
]


@pytest.mark.parametrize(("module", "name"), SECTIONS)
def test_every_key_of_the_configuration_is_explained(module: str, name: str) -> None:
    section = getattr(importlib.import_module(module), name)
    missing = [field.name for field in msgspec.structs.fields(section) if f"| `{field.name}` |" not in OPERATIONS]
    assert not missing


def test_every_reason_for_a_drop_is_explained_and_no_other() -> None:
    explained = set(re.findall(r"`([a-z0-9_]+)`", OPERATIONS.partition("## Drops")[2]))
    assert set(_drop_reasons()) - explained == set(), "docs/operations.md, Drops: these are missing"
    known = {text for module in modules() for node in ast.walk(module.tree) for text in _texts(node)}
    assert explained - known == set(), "docs/operations.md, Drops: nobody gives these"


def _drop_reasons() -> Iterator[str]:
    """Of ``SomeDropError("reason")`` and ``….drops["reason"]``, literal or chosen between two literals."""
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and node.args and _is_drop(node.func):
                yield from _texts(node.args[0])
            elif (
                isinstance(node, ast.Subscript)
                and isinstance(node.value, ast.Attribute | ast.Name)
                and getattr(node.value, "attr", getattr(node.value, "id", "")).endswith("drops")
            ):
                yield from _texts(node.slice)


def _is_drop(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in _drop_errors()


@cache
def _drop_errors() -> set[str]:
    """DropError and everything that derives from it, wherever it is defined."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"DropError"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def test_every_metric_is_listed() -> None:
    names = {
        node.value
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"cyphonic_(frontend|worker|relay|node)_[a-z_]+", node.value)
    }
    assert not {name for name in names if f"`{name}" not in OPERATIONS}


def test_every_exit_code_is_in_the_readme_and_in_the_help() -> None:
    codes = {
        cls.exit_code
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.OperationalError)
    }
    shown = CliRunner().invoke(main, ["--help"]).output
    for code in {0, *codes}:
        assert re.search(rf"^\| {code} \|", README, re.MULTILINE), code
        assert re.search(rf"^ *{code}  ", shown, re.MULTILINE), code


def test_every_command_is_in_the_readme() -> None:
    for name in main.list_commands(main.make_context("cyphonic", [], resilient_parsing=True)):
        assert re.search(rf"`(cyphonic )?{name}\b|`cyphonic [^`]*{name}`", README), name


def test_the_links_between_the_documents_lead_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\[]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_file_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.(?:py|lua))`", text))
    missing = {
        name
        for name in package
        if not any((ROOT / "cyphonic" / folder / name).exists() for folder in ("", "state/scripts"))
    }
    assert len(package) > 30
    assert not missing
