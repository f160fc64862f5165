"""A new site: ``cloud.toml`` and its key files.  Nothing that exists is ever overwritten."""

from __future__ import annotations

import ipaddress
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec

from cyphonic.errors import ConfigurationError
from cyphonic.protocol.chance import Chance
from cyphonic.site import CLOUD_FILE, SiteSection, create_keys, load_site
from cyphonic.wire.endpoint import Endpoint

AS_PORT, NMS_PORT, RELAY_PORT = 7701, 7702, 7703
"""Where frontends and relays listen unless their sections say otherwise."""

FIRST_KEYS = ("as", "as-signing", "nms", "relay", "state")
"""Secrets that every site has had from the first version on."""


@dataclass(frozen=True)
class NewSite:
    """What the operator decides; the rest has defaults that can be changed in the file."""

    file: Path
    region: str
    domain: str
    pool_ipv4: str
    hosts: tuple[str, ...] = ()
    """Addresses under which nodes reach the frontends and relays; none: those of the machine they run on."""
    allow_loopback: bool = False


@dataclass(frozen=True)
class Directories:
    """Where a site keeps its things."""

    keys: Path
    run: Path
    state: Path


def directories_for(file: Path) -> Directories:
    """The system's own for the site of this machine, else beside its file: a trial site is one directory."""
    if file == CLOUD_FILE:
        defaults = {field.name: field.default for field in msgspec.structs.fields(SiteSection)}
        return Directories(defaults["keys_dir"], defaults["run_dir"], defaults["state_dir"])
    return Directories(Path("keys"), Path("run"), Path("state"))


def random_prefix(chance: Chance) -> str:
    """A /48 of fd00::/8 with 40 random bits (RFC 4193 §3.2)."""
    return str(ipaddress.IPv6Network((b"\xfd" + chance(5) + bytes(10), 48)))


def complete_site(file: Path, chance: Chance) -> list[Path]:
    """Make the key files that a site of an older version lacks; those made, none for no site or a complete one.

    Raise ConfigurationError.
    """
    if not file.exists():
        return []
    keys = load_site(file, {}).keys_dir
    if (keys / "pipeline.key").exists() or not all((keys / f"{name}.key").exists() for name in FIRST_KEYS):
        return []  # complete; or a host that was given some keys only: none of its own are made for it
    try:
        create_keys(keys, chance)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or keys}: {error.strerror}", "run as root (sudo)") from None
    return [keys / "pipeline.key"]


def create_site(new: NewSite, chance: Chance) -> Path:
    """Write the file and the keys; return the keys' directory.  Raise ConfigurationError, the file unwritten."""
    hosts = [_host(text) for text in new.hosts]
    prefix = random_prefix(chance)
    try:
        SiteSection(prefix, region=new.region, domain=new.domain, pool_ipv4=new.pool_ipv4)
    except ValueError as error:
        raise ConfigurationError(str(error), "choose another --region, --domain or --pool-ipv4") from None
    directories = directories_for(new.file)
    keys = new.file.absolute().parent / directories.keys
    try:
        new.file.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(new.file) as stream:
            create_keys(keys, chance)
            stream.write(_toml(new, prefix, directories, hosts))
    except FileExistsError:
        raise ConfigurationError(
            f"{new.file} exists: this machine has a site, and it stays as it is",
            "change that file by hand, or make another site with --config FILE",
        ) from None
    except OSError as error:
        new.file.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{error.filename or new.file}: {error.strerror}",
            "run as root (sudo), or choose a --config FILE of your own",
        ) from None
    return keys


def next_steps(new: NewSite) -> str:
    """What to do with a new site, ready to be copied."""
    option = "" if new.file == CLOUD_FILE else f" --config {shlex.quote(str(new.file))}"
    return "\n".join(
        [
            "Next:",
            f"  cyphonic cluster{option}",
            "      runs the whole site on this machine",
            f"  cyphonic admin key create{option} --name pump-1 -o pump-1.bundle",
            "      makes an enrolment bundle for one node; bring it there by a safe way",
            "  sudo cyphonic up --enrol pump-1.bundle",
            f"      on that node, which is pump-1.{new.region}.{new.domain} from then on",
        ]
    )


def _new_file(file: Path) -> TextIO:
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8")


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise ConfigurationError(
            f"--endpoint {text}: not an IP address", "nodes need no DNS to find the cloud"
        ) from None


def _toml(new: NewSite, prefix: str, directories: Directories, hosts: list[str]) -> str:
    lines = [
        "# A cyphonic site.  Every key that may stand here is explained in docs/operations.md.",
        "",
        "[site]",
        f'region = "{new.region}"',
        f'domain = "{new.domain}"',
        f'prefix_ipv6 = "{prefix}"',
        f'pool_ipv4 = "{new.pool_ipv4}"',
        f'keys_dir = "{directories.keys}"',
        f'run_dir = "{directories.run}"',
        f'state_dir = "{directories.state}"',
    ]
    if new.allow_loopback:
        lines.append("allow_loopback = true")
    if hosts:
        lines += [
            "",
            "# What nodes are told.",
            "[frontend]",
            f"as_advertise = {_endpoints(hosts, AS_PORT)}",
            f"nms_advertise = {_endpoints(hosts, NMS_PORT)}",
            "",
            "[relay]",
            f"advertise = {_endpoints(hosts, RELAY_PORT)}",
        ]
    return "\n".join(lines) + "\n"


def _endpoints(hosts: list[str], port: int) -> str:
    return "[" + ", ".join(f'"{Endpoint(host, port)}"' for host in hosts) + "]"
