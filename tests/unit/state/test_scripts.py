"""The Lua scripts say what they take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cyphonic.state
from cyphonic.state import keys

SCRIPTS = sorted(Path(cyphonic.state.__file__).parent.glob("scripts/*.lua"))
ALLOWED = {
    "DECR", "DEL", "EXISTS", "EXPIRE", "GET", "HDEL", "HGET", "HINCRBY", "HMGET", "HSET", "INCR", "PEXPIRE", "PTTL",
    "SADD", "SET", "SISMEMBER", "SREM", "TIME", "ZADD", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZREM",
    "ZREMRANGEBYSCORE", "ZSCORE",
}  # fmt: skip
"""All of them in Redis 6.2, with the arguments that it knows."""


def _name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_every_key_and_argument_is_documented(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = "\n".join(line for line in lines if line.startswith("--"))
    body = "\n".join(line for line in lines if not line.startswith("--"))
    used = set(re.findall(r"(?:KEYS|ARGV)\[\d+\]", body))
    assert used <= set(re.findall(r"(?:KEYS|ARGV)\[\d+\]", head))
    assert "returns" in head or "return 1" in body


@pytest.mark.parametrize("path", SCRIPTS, ids=_name)
def test_only_commands_of_redis_6_2_are_called(path: Path) -> None:
    assert set(re.findall(r"redis\.call\('(\w+)'", path.read_text())) <= ALLOWED


def test_every_key_of_the_scripts_stands_in_the_table_of_keys() -> None:
    table = keys.__doc__ or ""
    for path in SCRIPTS:
        for key in re.findall(r"'((?:as|nms):[a-z0-9]+):?'", path.read_text()):
            assert f"``{key}" in table, key
