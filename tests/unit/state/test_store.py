"""Round trips with a real Redis."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from cyphonic.state.store import Script, Store, StoreConfig, StoreUnavailableError
from tests.redis_server import RedisServer

SCRIPT = Script("due_revocations")


def test_results_come_in_order_and_as_bytes(store: Store) -> None:
    assert store.round_trip([("SET", "a", b"\x00\xff"), ("GET", "a"), ("GET", "b")]) == [b"OK", b"\x00\xff", None]


def test_a_refused_command_spoils_no_other(store: Store) -> None:
    results = store.round_trip([("SET", "a", "x"), ("HGET", "a", "field"), ("GET", "a")])
    assert isinstance(results[1], ResponseError)
    assert (results[0], results[2]) == (b"OK", b"x")


def test_a_forgotten_script_is_sent_again(store: Store) -> None:
    call = SCRIPT.call(("nms:revocations",), (1, 1))
    assert store.round_trip([("SET", "a", "x"), call, ("GET", "a"), call]) == [b"OK", [], b"x", []]
    store.run(("SCRIPT", "FLUSH"))
    assert store.run(call) == []


def test_a_restarted_redis_is_found_again(redis_server: RedisServer, store: Store) -> None:
    store.run(("SET", "kept", "x"))
    redis_server.restart()
    assert store.round_trip([("GET", "kept"), SCRIPT.call(("nms:revocations",), (1, 1))]) == [b"x", []]


def test_an_absent_redis_is_an_operational_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        Store.connect(StoreConfig(f"unix://{tmp_path / 'none.sock'}"))
    assert caught.value.exit_code == 4
    assert "none.sock" in caught.value.message
    assert caught.value.hint


def test_a_wrong_password_is_an_operational_error(redis_server: RedisServer, store: Store) -> None:
    store.run(("CONFIG", "SET", "requirepass", "right"))
    try:
        with pytest.raises(StoreUnavailableError):
            Store.connect(StoreConfig(redis_server.config.url, "wrong"))
        with Store.connect(StoreConfig(redis_server.config.url, "right")) as other:
            assert other.run(("PING",)) == b"PONG"
    finally:
        store.run(("CONFIG", "SET", "requirepass", ""))
