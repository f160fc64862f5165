import importlib.util
import signal
from pathlib import Path

import pytest

from cyphonic.cluster.embedded_redis import answers, find_server, redis_child, wait_until_gone
from cyphonic.cluster.process import only_one
from cyphonic.errors import OperationalError
from cyphonic.lifecycle import StopSignal
from cyphonic.state.store import Store, StoreConfig
from cyphonic.supervisor import Child, Supervisor


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "redis"


def run_once(directory: Path, action: list[tuple[str, ...]]) -> list[object]:
    """Start it, carry out commands, stop it."""
    results: list[object] = []
    socket_path = directory.parent / "run" / "redis.sock"
    with StopSignal() as stop:

        def act(event: str, child: Child) -> None:
            if event == "ready":
                assert answers(socket_path)
                with Store(StoreConfig(f"unix://{socket_path}")) as store:
                    results.extend(store.round_trip(action))
                stop.request()
            if event == "exited":
                results.append(child.process.returncode if child.process else None)

        Supervisor([redis_child(directory, socket_path, find_server())], notify=act).run(stop)
    wait_until_gone(socket_path)
    return results


def test_what_is_written_survives_a_restart_and_no_tcp_port_is_open(directory: Path) -> None:
    assert run_once(directory, [("SET", "key", "value")]) == [b"OK", 0]
    commands: list[tuple[str, ...]] = [("GET", "key"), ("CONFIG", "GET", "port"), ("CONFIG", "GET", "appendfsync")]
    assert run_once(directory, commands) == [b"value", [b"port", b"0"], [b"appendfsync", b"everysec"], 0]


def test_its_directory_is_private(directory: Path) -> None:
    run_once(directory, [("PING",)])
    assert directory.stat().st_mode & 0o077 == 0


def test_it_is_a_gate_that_ends_with_its_parent_by_a_clean_shutdown(directory: Path) -> None:
    child = redis_child(directory, directory.parent / "redis.sock", "redis-server")
    assert child.gate
    assert not child.ticks
    assert child.death_signal == signal.SIGTERM


def test_redis_comes_before_valkey_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str) -> str:
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
        return str(tmp_path / name)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OperationalError, match="no redis-server or valkey-server") as caught:
        find_server(str(tmp_path))
    assert "apt-get install" in caught.value.hint
    valkey = install("valkey-server")
    assert find_server(str(tmp_path)) == valkey
    redis = install("redis-server")
    assert find_server(str(tmp_path)) == redis


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationalError) as caught:
        redis_child(tmp_path / "file" / "redis", tmp_path / "redis.sock", "redis-server")
    assert "state_dir" in caught.value.hint


def test_two_clusters_cannot_share_a_run_directory(tmp_path: Path) -> None:
    refused = pytest.raises(OperationalError, match="a cluster runs here already")
    with only_one(tmp_path / "run"), refused, only_one(tmp_path / "run"):
        pass
    with only_one(tmp_path / "run"):
        pass
