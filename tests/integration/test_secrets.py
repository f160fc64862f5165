"""Where secrets are not: a site of real processes in use, and everything that it writes down or shows."""

from __future__ import annotations

import os
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from cyphonic.bundle import Bundle
from cyphonic.node.report import report_cloud
from cyphonic.protocol.client import Directed, LoginRefused
from cyphonic.protocol.handshake import TunnelInitiator, read_tunnel_request, write_tunnel_response
from cyphonic.protocol.keys import decode_key
from cyphonic.state.registry import CommonKey, NodeRecord, list_nodes, read_node, sealed_key_place
from cyphonic.state.store import Store
from cyphonic.state.vault import Vault
from cyphonic.wire.codec import encode
from cyphonic.wire.header import MessageType
from cyphonic.wire.tunnel import Suite
from tests.live_cloud import LiveCloud, live_cloud, until
from tests.property.test_end_key_secrecy import SAID, Attacker, Recording, Remembering
from tests.redis_server import RedisServer
from tests.udp_nodes import UdpNode, UdpNodes

READ_VALUE = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"list": ("LRANGE", 0, -1),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
}
"""By type of key; the key comes after the command's name."""


@dataclass
class Site:
    """A site after a refused login, two good ones, a direction and some of the operator's commands."""

    cloud: LiveCloud
    redis: RedisServer
    store: Store
    alice: UdpNode
    bob: UdpNode
    bundle: Bundle
    shown: dict[str, str]
    """What commands printed, by command."""

    @property
    def key_files(self) -> dict[str, bytes]:
        files = sorted((self.cloud.directory / "keys").glob("*.key"))
        return {file.name: decode_key(file.read_text().strip()) for file in files}

    @property
    def secrets(self) -> dict[str, bytes]:
        found = {
            **self.key_files,
            "enrolment key": self.bundle.enrolment_key,
            "path key": self.alice.directed.direction.path_key,
        }
        for node in (self.alice, self.bob):
            found[f"common key of {node.name}"] = node.common_key.secret
            found[f"static key of {node.name}"] = node.static.secret
            for grant in node.directed.direction.relays:
                found[f"bind key of {node.name}"] = grant.bind_key
        return found

    def redis_dump(self) -> dict[str, bytes]:
        """Every key with its value, whatever its type."""
        dump = {}
        for key in self.store.run(("KEYS", "*")):
            name, *arguments = READ_VALUE[self.store.run(("TYPE", key))]
            value = self.store.run((name, key, *arguments))
            dump[f"Redis, {key!r}"] = b"\n".join([key, *(value if isinstance(value, list) else [value])])
        return dump

    def redis_files(self) -> dict[str, bytes]:
        """The AOF: what a backup has."""
        files = [file for file in self.redis.socket.parent.rglob("*") if file.is_file()]
        assert files
        return {f"file {file.name}": file.read_bytes() for file in files}

    def processes(self) -> dict[str, bytes]:
        """Command line, environment and log of each."""
        seen = {}
        for process in self.cloud.processes:
            seen[f"argv of {process.name}"] = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            seen[f"environment of {process.name}"] = Path(f"/proc/{process.pid}/environ").read_bytes()
            seen[f"log of {process.name}"] = process.log.encode()
        assert all(seen.values())
        return seen


def spellings(secret: bytes) -> Iterator[bytes]:
    """As bytes, hexadecimal, Python or base64, also from the middle of something longer."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    for alphabet in (b64encode, urlsafe_b64encode):
        for shift in range(3):
            yield alphabet(bytes(shift) + secret)[4:40]  # the ends depend on what stands around them


def leaks(secrets: Mapping[str, bytes], places: Mapping[str, bytes]) -> list[str]:
    """Which secret stands where."""
    return [
        f"{name} in {place}"
        for name, secret in secrets.items()
        for place, content in places.items()
        if any(spelling in content for spelling in spellings(secret))
    ]


@pytest.fixture(scope="module")
def site(_redis_process: RedisServer) -> Iterator[Site]:
    with Store(_redis_process.config) as store, live_cloud(_redis_process.config.url) as cloud:
        store.run(("FLUSHALL",))
        relay = cloud.start("relay")
        cloud.start_frontend()
        cloud.start_workers("as", "nms")
        until(lambda: "relay ready" in relay.log, "a relay")
        with UdpNodes(cloud.for_nodes()) as nodes:
            yield _use(cloud, _redis_process, store, nodes)


def _use(cloud: LiveCloud, redis: RedisServer, store: Store, nodes: UdpNodes) -> Site:
    file = str(cloud.directory / "bundle.toml")
    shown = {"key create": _show(cloud, "admin", "key", "create", "--reusable", "-o", file)}
    bundle = Bundle.load(file)
    stranger = nodes.add("stranger")
    nodes.login(stranger, bytes(31) + b"x")
    nodes.until(lambda: stranger.events(LoginRefused), "a refusal")
    alice, bob = nodes.join(bundle.enrolment_key, "alice", "bob")
    nodes.direct(alice, bob)
    nodes.until(lambda: alice.events(Directed), "a direction")
    for command in ("key list", "node list", "node show alice", "fleet", "site"):
        shown[command] = _show(cloud, "admin", *command.split())
        shown[f"{command} --json"] = _show(cloud, "admin", *command.split(), "--json")
    for node in (alice, bob):
        status = report_cloud(node.client, "home", "cyphonic.internal", None, "", 0.0)
        shown[f"status of {node.name}"] = msgspec.json.encode(status).decode()
    return Site(cloud, redis, store, alice, bob, bundle, shown)


def _show(cloud: LiveCloud, *arguments: str) -> str:
    ended = cloud.run(*arguments)
    assert ended.code == 0, ended.stderr
    return ended.stdout + ended.stderr


def test_no_secret_stands_in_argv_environment_log_or_output(site: Site) -> None:
    places = {**site.processes(), **{place: text.encode() for place, text in site.shown.items()}}
    assert len(site.secrets) == 6 + 2 + 3 * 2
    assert leaks(site.secrets, places) == []
    assert "alice.home.cyphonic.internal" in site.shown["node list --json"]


def test_no_secret_stands_plainly_in_redis_or_its_files(site: Site) -> None:
    places = site.redis_dump() | site.redis_files()
    assert leaks(site.secrets, places) == []


def test_no_secret_stands_plainly_in_a_datagram(site: Site) -> None:
    datagrams = site.alice.datagrams + site.bob.datagrams
    assert len({datagram[0] for datagram in datagrams} & set(MessageType)) > 6
    assert leaks(site.secrets, {"a datagram": b"\n".join(datagrams)}) == []


def test_what_is_sealed_in_redis_opens_under_the_state_key_alone(site: Site) -> None:
    """So it is there, and the search above would have met it."""
    dump = b"\n".join(site.redis_dump().values())
    for node in list_nodes(site.store):
        record = NodeRecord.parse(node.node_id, site.store.run(read_node(node.node_id)))
        assert record is not None
        assert record.current is not None
        found = CommonKey.decode(record.current)
        assert found.sealed in dump
        place = sealed_key_place(record.static_key, found.number)
        opened = Vault(site.key_files["state.key"], os.urandom).open(place, found.sealed)
        assert opened in (site.alice.common_key.secret, site.bob.common_key.secret)


def test_the_search_finds_every_spelling(site: Site) -> None:
    for name, secret in site.secrets.items():
        for spelling in spellings(secret):
            assert leaks({name: secret}, {"a log": b"key=" + spelling + b" ok"}) == [f"{name} in a log"]


def test_all_of_redis_all_key_files_and_all_datagrams_do_not_open_a_capsule(site: Site) -> None:
    recording = _tunnel(site)
    assert sum(map(len, recording.holdings)) > 10_000
    assert Attacker(recording, recording.holdings).open_capsules() == []
    # It fails for want of secrets, not of skill.
    everything = [*recording.holdings, *recording.secrets.values()]
    assert Attacker(recording, everything).open_capsules() == [SAID, SAID]


def _tunnel(site: Site) -> Recording:
    """A tunnel over the path that the cloud made, and what the cloud has of it and of everything else."""
    alice, bob = site.alice, site.bob
    direction = alice.directed.direction
    path_id, path_key = direction.path_id, direction.path_key
    chance = Remembering()
    initiator = TunnelInitiator(alice.static, bob.static.public, path_id, path_key, 1, chance)
    request = initiator.request(1, [Suite.CHACHA20_POLY1305])
    attempt = read_tunnel_request(request, bob.static, path_key)
    response, bobs = write_tunnel_response(attempt, path_key, 2, Suite.CHACHA20_POLY1305, os.urandom)
    alices = initiator.read_response(response)
    capsules = [session.seal(MessageType.CAPSULE, SAID) for session in (alices, bobs)]
    holdings = [*site.redis_dump().values(), *site.key_files.values(), *alice.datagrams, *bob.datagrams]
    for node in (alice, bob):
        holdings += [node.common_key.secret, encode(node.directed.direction), node.client.certificate_bytes]
    return Recording(
        request,
        response,
        capsules,
        (alice.static.public, bob.static.public),
        path_id,
        path_key,
        [*holdings, request, response, *capsules],
        {"statics": alice.static.secret + bob.static.secret, "ephemeral": chance.given[0]},
    )
