"""A site: one region's cloud as its operator describes it, in ``cloud.toml`` and a directory of key files.

Secrets are files of their own, mode 0600, one line of base64 each, so that a tier opens only what it needs: a
frontend and a node never see a secret of the cloud, a worker for the NMS never sees the signing key of the AS.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cyphonic.configuration import check_sections, choose_file, load
from cyphonic.errors import ConfigurationError
from cyphonic.pipeline.address import check_setting
from cyphonic.pipeline.curve import Curve
from cyphonic.protocol.chance import Chance
from cyphonic.protocol.keys import KeyPair, SigningKeyPair, decode_key, encode_key

CLOUD_FILE = Path("/etc/cyphonic/cloud.toml")
SECTIONS = ("site", "redis", "frontend", "worker", "relay", "cluster")
_LABEL = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
INIT_HINT = "make one with: cyphonic admin init"


class SiteSection(msgspec.Struct, frozen=True):
    """``[site]``."""

    prefix_ipv6: str
    """The region's overlay prefix, a /48; random inside fd00::/8 unless there is a reason."""
    region: str = "home"
    """One DNS label; names the NMS that its nodes belong to."""
    domain: str = "cyphonic.internal"
    pool_ipv4: str = "10.77.0.0/16"
    """Overlay IPv4 pool, for applications that know no IPv6."""
    keys_dir: Path = Path("/etc/cyphonic/keys")
    run_dir: Path = Path("/run/cyphonic")
    """Sockets; nothing in it outlives a restart."""
    state_dir: Path = Path("/var/lib/cyphonic")
    """The embedded Redis keeps its files here."""
    pipeline: str = ""
    """Where frontends and workers listen for each other: ``tcp://ADDRESS:PORT`` (or a network, and a range of
    ports) for a site of several hosts; empty: sockets in ``run_dir``, on one host."""
    allow_loopback: bool = False
    """Accept and advertise loopback addresses as underlay: tests and trials on a single machine."""

    def __post_init__(self) -> None:
        _check(self.prefix_ipv6, "prefix_ipv6", 6)
        _check(self.pool_ipv4, "pool_ipv4", 4)
        check_setting(self.pipeline)
        if ipaddress.ip_network(self.prefix_ipv6).prefixlen != 48:
            raise ValueError(f"prefix_ipv6: {self.prefix_ipv6} is not a /48")
        if ipaddress.ip_network(self.pool_ipv4).prefixlen > 29:
            raise ValueError(f"pool_ipv4: {self.pool_ipv4} has too few addresses; take a /29 or larger")
        for label in (self.region, *self.domain.split(".")):
            if not _LABEL.fullmatch(label):
                raise ValueError(f"region or domain: {label!r} is not a DNS label in lower case")


class RedisSection(msgspec.Struct, frozen=True):
    """``[redis]``."""

    url: str = ""
    """``unix:///path/to/socket`` or ``redis://host:port/db``; empty: the socket of the embedded one."""
    password_file: Path | None = None

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("unix://", "redis://", "rediss://")):
            raise ValueError(f"url: {self.url!r} starts with none of unix://, redis://, rediss://")


class Site(msgspec.Struct, frozen=True):
    """Everything that all tiers of one site agree on."""

    region: str
    domain: str
    prefix_ipv6: str
    pool_ipv4: str
    keys_dir: Path
    run_dir: Path
    state_dir: Path
    allow_loopback: bool
    redis_url: str
    redis_password_file: Path | None
    pipeline: str = ""
    """Setting of ``cyphonic.pipeline.address``."""

    @property
    def pipeline_dir(self) -> Path:
        """Where the pipeline's ipc sockets are, mode 0700."""
        return self.run_dir / "pipeline"

    @property
    def embedded_redis_socket(self) -> Path:
        """Where ``cyphonic cluster`` lets its own Redis listen."""
        return self.run_dir / "redis.sock"

    @property
    def uses_embedded_redis(self) -> bool:
        """Nothing else was configured."""
        return self.redis_url == f"unix://{self.embedded_redis_socket}"

    def fqdn(self, name: str) -> str:
        """Of a node of this region."""
        return f"{name}.{self.region}.{self.domain}"

    def redis_password(self) -> str | None:
        """From its file; raise ConfigurationError when that cannot be read."""
        if self.redis_password_file is None:
            return None
        return _read_secret(self.redis_password_file, "correct [redis] password_file")


def load_site(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Site:
    """The site of ``--config FILE`` (or CYPHONIC_CONFIG, or /etc/cyphonic/cloud.toml).

    Raise ConfigurationError: no such file, a broken one, an unknown section or key.
    """
    chosen = cloud_file(file, environ)
    check_sections(chosen, SECTIONS)
    section = load(SiteSection, section="site", file=chosen, environ=environ, flags=flags)
    redis = load(RedisSection, section="redis", file=chosen, environ=environ)
    return Site(
        region=section.region,
        domain=section.domain,
        prefix_ipv6=section.prefix_ipv6,
        pool_ipv4=section.pool_ipv4,
        keys_dir=section.keys_dir,
        run_dir=section.run_dir,
        state_dir=section.state_dir,
        allow_loopback=section.allow_loopback,
        redis_url=redis.url or f"unix://{section.run_dir / 'redis.sock'}",
        redis_password_file=redis.password_file,
        pipeline=section.pipeline,
    )


def cloud_file(flag: Path | None, environ: Mapping[str, str]) -> Path:
    """The site's configuration file; raise ConfigurationError when there is none."""
    chosen = choose_file(flag, environ, CLOUD_FILE)
    if chosen is None:
        raise ConfigurationError(f"this machine has no cloud configuration ({CLOUD_FILE})", INIT_HINT)
    if not chosen.exists():
        raise ConfigurationError(f"{chosen}: there is no such file", f"{INIT_HINT} --config {chosen}")
    return chosen


class SiteKeys:
    """The key files of a site.  Each method opens exactly one file; raise ConfigurationError when it cannot."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def as_key(self) -> KeyPair:
        """X25519 of the AS: logins, key distribution."""
        return KeyPair.from_secret(self._secret("as.key"))

    def as_signing_key(self) -> SigningKeyPair:
        """Ed25519 of the AS: certificates."""
        return SigningKeyPair.from_seed(self._secret("as-signing.key"))

    def nms_key(self) -> KeyPair:
        """X25519 of the NMS: key distribution, relay tokens."""
        return KeyPair.from_secret(self._secret("nms.key"))

    def relay_key(self) -> KeyPair:
        """X25519 of the relays of this site."""
        return KeyPair.from_secret(self._secret("relay.key"))

    def state_key(self) -> bytes:
        """32 bytes: seals secrets inside Redis."""
        return self._secret("state.key")

    def curve(self, pipeline: str) -> Curve | None:
        """Who this process is in a pipeline of that setting, and whom it admits; None where sockets are files."""
        if not pipeline:
            return None
        own = KeyPair.from_secret(self._secret("pipeline.key"))
        other = self._directory / "pipeline-other.pub"
        return Curve(own, frozenset({own.public, *([self._public(other.name)] if other.exists() else [])}))

    def as_public(self) -> bytes:
        """X25519 public key of the AS."""
        return self._public("as.pub")

    def as_verify_key(self) -> bytes:
        """Ed25519 public key of the AS."""
        return self._public("as-signing.pub")

    def nms_public(self) -> bytes:
        """X25519 public key of the NMS."""
        return self._public("nms.pub")

    def relay_public(self) -> bytes:
        """X25519 public key of the relays."""
        return self._public("relay.pub")

    def _secret(self, name: str) -> bytes:
        file = self._directory / name
        text = _read_secret(file, INIT_HINT)
        if file.stat().st_mode & 0o007:
            raise ConfigurationError(
                f"{file}: every user of this machine can read this secret", f"chmod 600 {file}"
            )
        return _decode(file, text)

    def _public(self, name: str) -> bytes:
        file = self._directory / name
        return _decode(file, _read_secret(file, INIT_HINT))


def create_keys(directory: Path, chance: Chance) -> None:
    """Make the key files of a new site; a file that exists is left as it is, and its public half is written again.

    Raise OSError when the directory cannot be written.
    """
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    for name in ("as", "nms", "relay", "pipeline"):
        pair = KeyPair.from_secret(_keep_or_make(directory / f"{name}.key", chance))
        write_file(directory / f"{name}.pub", encode_key(pair.public) + "\n", 0o644)
    signing = SigningKeyPair.from_seed(_keep_or_make(directory / "as-signing.key", chance))
    write_file(directory / "as-signing.pub", encode_key(signing.public) + "\n", 0o644)
    _keep_or_make(directory / "state.key", chance)


def write_file(file: Path, text: str, mode: int) -> None:
    """Write whole or not at all, with ``mode`` from the first byte on."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)  # the umask is not asked
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def _keep_or_make(file: Path, chance: Chance) -> bytes:
    if file.exists():
        return _decode(file, _read_secret(file, ""))
    secret = chance(32)
    write_file(file, encode_key(secret) + "\n", 0o600)
    return secret


def _read_secret(file: Path, hint: str) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ConfigurationError(f"{file}: there is no such key file", hint) from None
    except PermissionError:
        raise ConfigurationError(
            f"{file}: no permission to read it", "run as root or as the user of this service"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: cannot be read: {error}") from None


def _decode(file: Path, text: str) -> bytes:
    try:
        return decode_key(text)
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}") from None


def _check(text: str, key: str, version: int) -> None:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    if network.version != version:
        raise ValueError(f"{key}: {text} is not an IPv{version} network")
