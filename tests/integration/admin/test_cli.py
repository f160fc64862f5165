"""The operator's commands as typed, against a real Redis and a real pipeline."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cyphonic.bundle import Bundle
from cyphonic.cli import main
from cyphonic.pipeline import FrontendPipe, ipc_endpoint, new_context, new_instance
from cyphonic.protocol.distribution import open_distribution
from cyphonic.site import Site, SiteKeys, load_site
from cyphonic.state import keys
from cyphonic.state.fleet import FrontendMember, RelayMember, WorkerMember, announce
from cyphonic.state.leases import register
from cyphonic.state.registry import CommonKey, enrolment_digest
from cyphonic.state.store import Store, StoreConfig
from cyphonic.state.transactions import Admission, admit_node, open_login
from cyphonic.wire.endpoint import Endpoint
from cyphonic.wire.job import Route
from cyphonic.wire.revocation import RevocationOrder
from tests.redis_server import RedisServer

WALL = 1_700_000_000.0
AS_ENDPOINT = Endpoint("192.0.2.1", 7701)


class Operator:
    """Types commands at a new site."""

    def __init__(self, directory: Path, redis: StoreConfig) -> None:
        self.config = directory / "cloud.toml"
        self._environ = {"CYPHONIC_REDIS_URL": redis.url, "CYPHONIC_CONFIG": str(self.config)}
        assert self.run("init", "--config", str(self.config), "--region", "main").exit_code == 0
        # A socket's path has at most 107 bytes; pytest's directories may be longer than that.
        self._environ["CYPHONIC_SITE_RUN_DIR"] = str(Path(redis.url.removeprefix("unix://")).parent)

    def run(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(main, ["admin", *arguments], input=stdin, env=self._environ)

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def site(self) -> Site:
        return load_site(self.config, self._environ)


@pytest.fixture
def operator(tmp_path: Path, redis_server: RedisServer) -> Operator:
    return Operator(tmp_path, redis_server.config)


def _run_frontend(store: Store, endpoint: str = "ipc://nowhere") -> None:
    announce(store, FrontendMember("front", endpoint, as_endpoints=[AS_ENDPOINT], bound=[AS_ENDPOINT]))


def _enrol(store: Store, bundle: Bundle, name: str, number: int) -> bytes:
    """What AS and NMS do at a login and a registration; the node's ID."""
    static = bytes([number]) * 32
    opened = store.run(
        open_login(
            static_key=static,
            transaction_id=bytes(16),
            stamp=1,
            name=name,
            enrolment_digest=enrolment_digest(bundle.enrolment_key),
            request=b"",
            route=Route("", 0, "", 0),
            common_key=b"",
            wall=WALL,
        )
    )
    assert opened[0] == b"pending"
    admitted = Admission.parse(
        store.run(
            admit_node(
                static_key=static,
                fqdn=f"{name}.main.cyphonic.internal",
                common_key=CommonKey(1, int(WALL) + 86400, b""),
                generation=1,
                wall=WALL,
                node_ids=os.urandom(64),
                ipv6_addresses=os.urandom(64),
                pool_first=int.from_bytes(bytes([10, 77, 0, number]), "big"),
                pool_size=1000,
                offsets=os.urandom(32),
            )
        )
    )
    observed = Endpoint("198.51.100.7", 4000 + number)
    store.run(register(admitted.node_id, 1, 1, observed, Endpoint("192.0.2.1", 7702), [], 0, WALL))
    return admitted.node_id


def _bundle(operator: Operator, *arguments: str) -> Bundle:
    result = operator.run("key", "create", *arguments)
    assert result.exit_code == 0, result.output
    return Bundle.parse(result.stdout.encode(), "stdout")


def test_a_new_site_tells_what_to_do_next(operator: Operator, tmp_path: Path) -> None:
    result = operator.run("init", "--config", str(tmp_path / "other" / "cloud.toml"))
    assert "cyphonic cluster --config" in result.stdout
    assert "sudo cyphonic up --enrol" in result.stdout


def test_a_bundle_says_where_the_running_frontends_are(operator: Operator, store: Store) -> None:
    _run_frontend(store)
    bundle = _bundle(operator, "--name", "pump-1")
    assert bundle.as_endpoints == (AS_ENDPOINT,)
    assert bundle.as_key == SiteKeys(operator.site().keys_dir).as_public()
    assert (bundle.region, bundle.name) == ("main", "pump-1")


def test_a_bundle_in_a_file_is_for_its_owner_alone(operator: Operator, store: Store, tmp_path: Path) -> None:
    _run_frontend(store)
    file = tmp_path / "pump.bundle"
    assert operator.run("key", "create", "-o", str(file)).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    again = operator.run("key", "create", "-o", str(file))
    assert again.exit_code == 1
    assert "is not overwritten" in again.stderr
    assert len(operator.json("key", "list")["keys"]) == 1


def test_without_a_frontend_a_bundle_needs_an_endpoint(operator: Operator) -> None:
    refused = operator.run("key", "create")
    assert refused.exit_code == 2
    assert "--endpoint" in refused.stderr
    assert operator.json("key", "list")["keys"] == []
    assert _bundle(operator, "--endpoint", "[2001:db8::1]:7701").as_endpoints == (Endpoint("2001:db8::1", 7701),)


@pytest.mark.parametrize(
    "arguments",
    [("--name", "Pump!"), ("--name", "pump", "--reusable"), ("--expires", "soon"), ("--endpoint", "nowhere")],
)
def test_a_key_that_makes_no_sense_is_a_usage_error(operator: Operator, arguments: tuple[str, ...]) -> None:
    assert operator.run("key", "create", *arguments).exit_code == 2


def test_keys_are_listed_and_revoked(operator: Operator, store: Store) -> None:
    _run_frontend(store)
    _bundle(operator, "--reusable", "--expires", "never")
    (key,) = operator.json("key", "list")["keys"]
    assert (key["state"], key["uses"], key["expires"]) == ("usable", None, None)
    assert operator.run("key", "revoke", key["id"][:8]).exit_code == 0
    (key,) = operator.json("key", "list")["keys"]
    assert key["state"] == "revoked"
    assert key["id"] in operator.run("key", "list").stdout
    unknown = operator.run("key", "revoke", "ffff")
    assert unknown.exit_code == 1
    assert "cyphonic admin key list" in unknown.stderr


def test_nodes_are_listed_and_shown_by_any_of_their_names(operator: Operator, store: Store) -> None:
    _run_frontend(store)
    assert operator.run("node", "list").stdout == "no nodes\n"
    node_id = _enrol(store, _bundle(operator), "pump-1", 1)
    document = operator.json("node", "list")
    (node,) = document["nodes"]
    assert document["schema_version"] == 1
    assert (node["name"], node["state"], node["node_id"]) == ("pump-1", "online", node_id.hex())
    assert node["leases"][0]["observed"] == "198.51.100.7:4001"
    for selector in ("pump-1", node["fqdn"], node["node_id"], node["virtual_ipv6"], node["virtual_ipv4"]):
        assert operator.json("node", "show", selector)["node"] == node
    assert "198.51.100.7:4001" in operator.run("node", "show", "pump-1").stdout
    unknown = operator.run("node", "show", "nobody")
    assert unknown.exit_code == 1
    assert "nobody: no such node" in unknown.stderr


def test_nothing_happens_to_a_node_without_a_yes(operator: Operator, store: Store) -> None:
    _run_frontend(store)
    _enrol(store, _bundle(operator), "pump-1", 1)
    assert operator.run("node", "revoke", "pump-1", stdin="n\n").exit_code == 1
    assert operator.json("node", "show", "pump-1")["node"]["state"] == "online"


@pytest.fixture
def nms(operator: Operator, store: Store, redis_server: RedisServer) -> Iterator[list[bytes]]:
    """A frontend and an NMS in one thread: an order is acknowledged by every peer, at its second coming."""
    ordered: list[bytes] = []
    stop = threading.Event()
    site = operator.site()
    nms_key = SiteKeys(site.keys_dir).nms_key()
    context = new_context()
    pipe = FrontendPipe(context, ipc_endpoint(site.pipeline_dir, new_instance(os.urandom)))

    _run_frontend(store, pipe.endpoint)

    def serve() -> None:
        with Store(redis_server.config) as store:
            while not stop.wait(0.02):
                _run_frontend(store, pipe.endpoint)
                for job in [job for report in pipe.reports() for job in report.forwards]:
                    _, order = open_distribution(job, nms_key, nms_key.public)
                    assert isinstance(order, RevocationOrder)
                    if order.node_id in ordered:
                        store.run(("DEL", keys.nms_revocation(order.node_id)))
                    ordered.append(order.node_id)

    thread = threading.Thread(target=serve)
    thread.start()
    yield ordered
    stop.set()
    thread.join()
    pipe.close()
    context.destroy()


def test_a_revocation_is_driven_until_the_peers_have_dropped_the_node(
    operator: Operator, store: Store, nms: list[bytes]
) -> None:
    bundle = _bundle(operator, "--reusable", "--endpoint", str(AS_ENDPOINT))
    pump, valve = _enrol(store, bundle, "pump-1", 1), _enrol(store, bundle, "valve-1", 2)
    store.run(("ZADD", keys.nms_paths(pump), int(WALL) + 10**9, valve))
    result = operator.run("node", "revoke", "pump-1", "--yes", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["acknowledged"] == ["pump-1", "valve-1"]
    assert document["silent"] == document["offline"] == []
    assert set(nms) == {pump}
    assert operator.json("node", "show", "pump-1")["node"]["state"] == "revoked"


def test_a_deleted_node_leaves_its_name(operator: Operator, store: Store, nms: list[bytes]) -> None:
    bundle = _bundle(operator, "--reusable", "--endpoint", str(AS_ENDPOINT))
    _enrol(store, bundle, "pump-1", 1)
    result = operator.run("node", "delete", "pump-1", "--yes")
    assert result.exit_code == 0, result.output
    assert "pump-1: deleted" in result.stdout
    assert operator.json("node", "list")["nodes"] == []
    assert nms


def test_without_redis_every_command_ends_with_code_4(operator: Operator, tmp_path: Path) -> None:
    operator._environ["CYPHONIC_REDIS_URL"] = f"unix://{tmp_path / 'nothing.sock'}"
    for arguments in (("key", "list"), ("node", "list"), ("node", "revoke", "x", "--yes")):
        result = operator.run(*arguments)
        assert result.exit_code == 4
        assert "Redis" in result.stderr


def test_without_its_cluster_a_site_says_how_to_start_it(operator: Operator, tmp_path: Path) -> None:
    operator._environ["CYPHONIC_REDIS_URL"] = ""
    operator._environ["CYPHONIC_SITE_RUN_DIR"] = str(tmp_path / "nothing")
    result = operator.run("key", "list")
    assert result.exit_code == 4
    assert "cluster of this site does not run" in result.stderr


def test_without_a_site_the_way_to_one_is_shown(operator: Operator, tmp_path: Path) -> None:
    result = operator.run("node", "list", "--config", str(tmp_path / "absent.toml"))
    assert result.exit_code == 2
    assert "cyphonic admin init --config" in result.stderr


def test_what_runs_is_shown(operator: Operator, store: Store) -> None:
    assert operator.run("fleet").stdout == "nothing runs\n"
    _run_frontend(store)
    announce(store, WorkerMember("work", "ipc://nowhere", services=[0, 1], rate=12.5, load=0.3))
    announce(store, RelayMember("pass", bytes(32), [Endpoint("192.0.2.1", 7703)], load=0.25))
    document = operator.json("fleet")
    assert document["frontends"][0]["as_endpoints"] == [str(AS_ENDPOINT)]
    worker = {"instance": "work", "services": ["AS", "NMS"], "pipeline": "ipc://nowhere", "rate": 12.5, "load": 0.3}
    assert document["workers"] == [worker]
    assert document["relays"] == [{"instance": "pass", "endpoints": ["192.0.2.1:7703"], "load": 0.25}]
    assert "load 25%" in operator.run("fleet").stdout


def test_the_site_is_shown_as_it_is_configured(operator: Operator) -> None:
    site = operator.json("site")["site"]
    assert site["keys_dir"] == str(operator.config.parent / "keys")
    assert site["region"] in operator.run("site").stdout
