"""The source tree as the architecture tests see it: modules, what they import, what they define."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cyphonic"


class Module(NamedTuple):
    """One file of the package."""

    name: str
    """Dotted, ``cyphonic.wire.header``."""
    path: Path
    tree: ast.Module

    @property
    def unit(self) -> str:
        """The first name under the package: ``wire``, ``relay``, ``udp``; empty for the package itself."""
        return [*self.name.split("."), ""][1]

    def imported(self) -> Iterator[str]:
        """Dotted names of every import, wherever in the file it stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}: imports are absolute"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package, by name."""
    return tuple(sorted(_read(path) for path in PACKAGE.rglob("*.py")))


def _read(path: Path) -> Module:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))


@cache
def module_names() -> frozenset[str]:
    """Dotted names of all modules."""
    return frozenset(module.name for module in modules())


def own_imports(module: Module) -> set[str]:
    """Modules of this package that ``module`` imports."""
    found = set()
    for name in module.imported():
        if name.split(".")[0] == "cyphonic":
            found.add(name if name in module_names() else name.rpartition(".")[0])
    return found - {module.name}
