"""Imports point one way.  Read from the source, so that an import inside a function counts too."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.architecture.tree import Module, modules, own_imports

TIERS = {"frontend", "workers", "relay", "node", "admin", "loadgen", "cluster", "lab"}
LOWER = ["errors", "wire", "protocol", "state"]
SUBSTRATE = len(LOWER)
"""Rank of the modules that stand alone between state and the tiers: udp, pipeline, configuration, …"""

PURE = ["wire", "protocol"]
IMPURE = {
    "asyncio", "concurrent", "ctypes", "fcntl", "logging", "multiprocessing", "os", "pyroute2", "queue", "random",
    "redis", "sched", "secrets", "select", "selectors", "signal", "socketserver", "subprocess", "sys", "threading",
    "time", "zmq",
}  # fmt: skip
SOCKET_CONSTANTS = {"AddressFamily", "AF_INET", "AF_INET6", "inet_ntop", "inet_pton"}
PASS_THEIR_ENVIRONMENT_ON = {"supervisor", "lab"}
"""To the processes that they start."""


def _rank(unit: str) -> int:
    if unit == "":
        return 0
    if unit in LOWER:
        return LOWER.index(unit)
    if unit in TIERS:
        return SUBSTRATE + 1
    return {"cli": SUBSTRATE + 2, "__main__": SUBSTRATE + 3}.get(unit, SUBSTRATE)


def _unit(name: str) -> str:
    return [*name.split("."), ""][1]


def _named(module: Module) -> str:
    return module.name


@pytest.mark.parametrize("module", modules(), ids=_named)
def test_a_module_imports_only_what_is_below_it(module: Module) -> None:
    above = {name for name in own_imports(module) if _rank(_unit(name)) > _rank(module.unit)}
    assert not above, f"{module.name} imports upwards"


@pytest.mark.parametrize("module", [module for module in modules() if module.unit in TIERS], ids=_named)
def test_a_tier_imports_no_other_tier(module: Module) -> None:
    others = {name for name in own_imports(module) if _unit(name) in TIERS - {module.unit}}
    assert not others, f"{module.name} reaches into another tier"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module.name: own_imports(module) for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [module for module in modules() if module.unit in PURE], ids=_named)
def test_wire_and_protocol_touch_no_socket_clock_thread_log_or_random_source(module: Module) -> None:
    taken = {name.split(".")[0] for name in module.imported()} & IMPURE
    assert not taken, f"{module.name} is no longer pure"
    calls = {
        node.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "socket"
    }
    assert calls <= SOCKET_CONSTANTS, f"{module.name} uses a socket"
    assert not {name for name in module.imported() if name in ("datetime.datetime", "uuid", "nacl.utils")}


@pytest.mark.parametrize("module", modules(), ids=_named)
def test_only_the_edge_reads_the_environment(module: Module) -> None:
    """``cli.py`` reads options and environment and hands values on."""
    reads = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("environ", "getenv")
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    if module.path.name != "cli.py" and module.unit not in PASS_THEIR_ENVIRONMENT_ON:
        assert not reads, f"{module.name} reads the environment itself"


@pytest.mark.parametrize(
    ("library", "owners"), [("redis", {"state"}), ("zmq", {"pipeline"}), ("pyroute2", {"node"})]
)
def test_a_library_of_the_edge_has_one_owner(library: str, owners: set[str]) -> None:
    users = {module.unit for module in modules() if library in {name.split(".")[0] for name in module.imported()}}
    assert users <= owners
