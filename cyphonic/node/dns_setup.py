"""How this machine comes to ask the node's DNS server: through systemd-resolved where it runs, else resolv.conf.

systemd-resolved keeps per-link settings: the overlay's zone goes to our server, everything else stays where it was,
and the settings end with the device.  resolv.conf knows one list for everything: then our server passes on what is
not ours.  Neither is touched from inside a network namespace that shares it with the machine around.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from cyphonic.errors import OperationalError
from cyphonic.logs import pairs
from cyphonic.node.config import DnsMode
from cyphonic.node.resolvconf import DNS_PORT, ResolvConf
from cyphonic.wire.endpoint import Endpoint

_log = logging.getLogger(__name__)

SYSTEMD_RESOLVED = "systemd-resolved"
RESOLV_CONF_MODE = "resolv.conf"
COMMAND_PATIENCE = 5.0
"""Seconds for one call of resolvectl; it takes some 20 ms."""

INITIAL_NAMESPACE_ONLY = Path("/proc/sys/net/core/netdev_max_backlog")

_STUB_SERVERS = ("127.0.0.53", "127.0.0.54")
_RESOLVED_DIRECTORY = "/run/systemd/resolve/"

Run = Callable[[Sequence[str]], None]
"""Runs a command; raise OperationalError when it fails."""


def run_command(command: Sequence[str]) -> None:
    """In a child process.  Raise OperationalError with what the command said."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_PATIENCE)
    except FileNotFoundError:
        raise OperationalError(f"there is no command {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise OperationalError(f"{command[0]} does not answer") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip().splitlines()
        raise OperationalError(f"{' '.join(command[:2])}: {said[-1] if said else error.returncode}") from None


class DnsSetup:
    """Sends this machine's questions to the node's DNS server, and stops doing so.

    ``mode`` says how: ``systemd-resolved``, ``resolv.conf`` or ``none: <reason>``.
    """

    def __init__(
        self,
        wanted: DnsMode,
        device: str,
        resolv_conf: ResolvConf,
        *,
        run: Run = run_command,
        isolated: bool | None = None,
    ) -> None:
        self.mode = "none: not joined yet"
        self._wanted = wanted
        self._device = device
        self._resolv_conf = resolv_conf
        self._run = run
        self._isolated = in_other_network_namespace() if isolated is None else isolated
        self._server: Endpoint | None = None
        self._zone = ""

    def clean_up(self) -> bool:
        """Put right what a killed process has left; whether there was something.  Never fails."""
        try:
            return self._resolv_conf.give_back()
        except OperationalError as error:
            _log.warning(error.message, extra=pairs(hint=error.hint))
            return False

    def upstreams(self, own: Endpoint) -> list[Endpoint]:
        """The DNS servers that this machine has, or had before it was taken over, without our own."""
        return [server for server in self._resolv_conf.read_original().servers if server != own]

    def apply(self, server: Endpoint, zone: str, reverse_domains: Sequence[str]) -> None:
        """Send questions to ``server``.  Never fails: ``mode`` says what came of it."""
        self._server, self._zone = server, zone
        ways: dict[str, Callable[[], None]] = {
            SYSTEMD_RESOLVED: lambda: self._use_resolved(server, zone, reverse_domains),
            RESOLV_CONF_MODE: lambda: self._use_resolv_conf(server, zone),
        }
        reasons = []
        for name, setup in ways.items():
            if self._wanted in ("auto", name):
                try:
                    setup()
                except OperationalError as error:
                    reasons.append(error.message)
                    continue
                self.mode = name
                return
        self.mode = "none: " + ("; ".join(reasons) or "switched off by dns_mode")
        _log.warning("names of the overlay do not resolve here", extra=pairs(reason=self.mode))

    def refresh(self) -> bool:
        """Take resolv.conf over again if someone has replaced it (a DHCP client); True: upstreams may differ."""
        if self.mode != RESOLV_CONF_MODE or self._server is None:
            return False
        try:
            if self._resolv_conf.ours:
                return False
            self._resolv_conf.give_back()  # not ours: drops the old backup, keeps the new file
            self._use_resolv_conf(self._server, self._zone)
        except OperationalError as error:
            _log.warning(error.message, extra=pairs(hint=error.hint))
        return True

    def revert(self) -> None:
        """As it was before ``apply``.  Never fails; may be called twice."""
        mode, self.mode = self.mode, "none: stopped"
        if mode == SYSTEMD_RESOLVED:
            try:
                self._run(["resolvectl", "revert", self._device])
            except OperationalError as error:  # the settings end with the device anyway
                _log.debug(error.message)
        elif mode == RESOLV_CONF_MODE:
            self.clean_up()

    def _use_resolved(self, server: Endpoint, zone: str, reverse_domains: Sequence[str]) -> None:
        if self._isolated:
            raise OperationalError("systemd-resolved is outside this network namespace")
        if not self._resolved_is_asked():
            raise OperationalError("systemd-resolved is not in use")
        address = server.host if server.port == DNS_PORT else str(server)
        self._run(["resolvectl", "dns", self._device, address])
        domains = [zone, *(f"~{domain}" for domain in reverse_domains)]
        self._run(["resolvectl", "domain", self._device, *domains])
        for setting in (("default-route", "no"), ("dnssec", "no"), ("llmnr", "no"), ("mdns", "no")):
            try:
                self._run(["resolvectl", setting[0], self._device, setting[1]])
            except OperationalError as error:  # older releases know not all of them
                _log.debug(error.message)

    def _resolved_is_asked(self) -> bool:
        """Whether applications come to systemd-resolved at all."""
        path = self._resolv_conf.path
        if path.is_symlink() and str(path.resolve()).startswith(_RESOLVED_DIRECTORY):
            return True
        return any(server.host in _STUB_SERVERS for server in self._resolv_conf.read().servers)

    def _use_resolv_conf(self, server: Endpoint, zone: str) -> None:
        if server.port != DNS_PORT:
            raise OperationalError(f"resolv.conf cannot name port {server.port}, only {DNS_PORT}")
        if self._isolated and not is_private(self._resolv_conf.path):
            raise OperationalError(
                f"{self._resolv_conf.path} belongs to the machine outside this network namespace"
            )
        self._resolv_conf.take_over(server, zone)


def in_other_network_namespace() -> bool:
    """Whether this thread's network is not the machine's (or the container's).

    The initial network namespace shows by sysctls that exist nowhere else.  Elsewhere process 1 is asked; when it
    hides the answer is yes, because a wrong no would break name resolution of the whole machine.
    """
    if INITIAL_NAMESPACE_ONLY.exists():
        return False
    try:
        return os.readlink("/proc/thread-self/ns/net") != os.readlink("/proc/1/ns/net")
    except OSError:
        return True


def is_private(path: Path, outside: Path = Path("/proc/1/root")) -> bool:
    """Whether this process sees another file there than process 1 does; unsure: no.

    It does under ``ip netns exec`` with a file in /etc/netns, and in a mount namespace with an /etc of its own.
    """
    try:
        real = path.resolve(strict=True)
        inside = real.lstat()
        outside.lstat()  # process 1 may be hidden altogether
        # Not followed: a link there would be resolved against our own root.
        other = (outside / real.relative_to("/")).lstat()
    except FileNotFoundError:
        return path.exists() and os.path.lexists(outside)
    except PermissionError:
        return _is_mount_point(real)
    except (OSError, RuntimeError):
        return False
    return (inside.st_dev, inside.st_ino) != (other.st_dev, other.st_ino)


def _is_mount_point(path: Path) -> bool:
    try:
        mounts = Path("/proc/thread-self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.split(" ")[4] == str(path) for line in mounts.splitlines())
