"""What keeps the source readable: sizes, and no state that outlives its owner."""

import ast
from collections.abc import Iterator
from statistics import median

import pytest

from tests.architecture.tree import ROOT, Module, modules

MAX_MODULE = 600
MAX_FUNCTION = 70
MAX_MEDIAN_FUNCTION = 12
"""Lines.  Above these a file or function holds more than one concept."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def _named(module: Module) -> str:
    return module.name


def _functions(tree: ast.AST) -> Iterator[FunctionNode]:
    return (node for node in ast.walk(tree) if isinstance(node, FunctionNode))


def _length(node: FunctionNode) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("module", modules(), ids=_named)
def test_a_module_holds_one_concept(module: Module) -> None:
    lines = module.path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_MODULE
    long = {node.name: _length(node) for node in _functions(module.tree) if _length(node) > MAX_FUNCTION}
    assert not long


def test_the_median_function_is_short() -> None:
    assert median(_length(node) for module in modules() for node in _functions(module.tree)) <= MAX_MEDIAN_FUNCTION


@pytest.mark.parametrize("module", modules(), ids=_named)
def test_no_module_is_called_for_a_drawer(module: Module) -> None:
    assert module.path.stem not in ("common", "util", "utils", "helpers", "misc", "base")


@pytest.mark.parametrize("module", modules(), ids=_named)
def test_no_state_lives_in_a_module(module: Module) -> None:
    assert not [node.lineno for node in ast.walk(module.tree) if isinstance(node, ast.Global)]
    variables = [
        target.id
        for node in module.tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Dict | ast.Set)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.upper() != target.id
    ]
    assert not variables, "a table is a constant and written in capitals"


def test_no_test_sleeps() -> None:
    """Except while it polls for real input or output, inside a loop with a deadline."""
    sleeping = []
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        polling = {
            id(call) for loop in ast.walk(tree) if isinstance(loop, ast.While | ast.For) for call in ast.walk(loop)
        }
        sleeping += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "sleep"
            and id(node) not in polling
        ]
    assert not sleeping
