"""How this machine comes to ask the node's DNS server: through systemd-resolved where it runs, else resolv.conf.

systemd-resolved keeps per-link settings: the overlay's zone goes to our server, everything else stays where it was,
and the settings end with the device.  resolv.conf knows one list for everything: then our server passes on what is
not ours.  Neither is touched from inside a network namespace that shares it with the machine around.

A resolv.conf that somebody replaces is taken over again, with the servers that it names then: DHCP clients and
other VPNs do that now and then.  Who does it again and again watches the file as we do, and a fight helps nobody:
then it is left alone for a while.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections import deque
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

MAX_TAKE_OVERS = 3
FIGHT = 120.0
"""So many take-overs again within so many seconds are a fight."""
TRUCE = 600.0
"""Seconds for which the file is left to the other."""
RETRY = 60.0
"""Seconds until a resolv.conf that could not be written is tried again."""

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mode = "none: not joined yet"
        self._wanted = wanted
        self._device = device
        self._resolv_conf = resolv_conf
        self._run = run
        self._isolated = in_other_network_namespace() if isolated is None else isolated
        self._clock = clock
        self._server: Endpoint | None = None
        self._zone = ""
        self._reverse_domains: Sequence[str] = ()
        self._upstreams: list[Endpoint] = []
        self._taken_again: deque[float] = deque(maxlen=MAX_TAKE_OVERS)
        self._retry_at: float | None = None
        self._trouble = ""

    def clean_up(self) -> bool:
        """Put right what a killed process has left; whether there was something.  Never fails."""
        try:
            return self._resolv_conf.give_back()
        except OperationalError as error:
            self._note(error)
            return False

    def upstreams(self, own: Endpoint) -> list[Endpoint]:
        """The DNS servers that this machine has, or would have if it were not taken over, without our own.

        Never fails: while that cannot be read, those that were found before.
        """
        try:
            servers = self._resolv_conf.read_original().servers
        except OperationalError as error:
            self._note(error)
        else:
            self._upstreams = [server for server in servers if server != own]
        return self._upstreams

    def apply(self, server: Endpoint, zone: str, reverse_domains: Sequence[str]) -> None:
        """Send questions to ``server``.  Never fails: ``mode`` says what came of it."""
        self._server, self._zone, self._reverse_domains = server, zone, reverse_domains
        self._retry_at = None
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
        mode = "none: " + ("; ".join(reasons) or "switched off by dns_mode")
        if mode != self.mode:
            _log.warning("names of the overlay do not resolve here", extra=pairs(reason=mode))
        self.mode = mode
        if self._wanted in ("auto", RESOLV_CONF_MODE):
            self._retry_at = self._clock() + RETRY

    def refresh(self) -> None:
        """To be called now and then: take resolv.conf over again if someone has replaced it.  Never fails."""
        if self._server is None:
            return
        try:
            if self.mode == RESOLV_CONF_MODE:
                self._keep(self._server)
            elif self._retry_at is not None and self._clock() >= self._retry_at:
                self.apply(self._server, self._zone, self._reverse_domains)
        except OperationalError as error:
            self._note(error)

    def revert(self) -> None:
        """As it was before ``apply``.  Never fails; may be called twice."""
        mode, self.mode = self.mode, "none: stopped"
        self._retry_at = None
        if mode == SYSTEMD_RESOLVED:
            try:
                self._run(["resolvectl", "revert", self._device])
            except OperationalError as error:  # the settings end with the device anyway
                _log.debug(error.message)
        self.clean_up()

    def _keep(self, server: Endpoint) -> None:
        path = self._resolv_conf.path
        if self._resolv_conf.ours:
            return
        self._resolv_conf.give_back()  # not ours: the new file stays, and is the original from now on
        now, again = self._clock(), self._taken_again
        if len(again) == MAX_TAKE_OVERS and now - again[0] < FIGHT:
            again.clear()
            self.mode = f"none: another program keeps replacing {path}; left to it for {TRUCE / 60:.0f} minutes"
            self._retry_at = now + TRUCE
            _log.warning("names of the overlay do not resolve here", extra=pairs(reason=self.mode))
            return
        again.append(now)
        try:
            self._use_resolv_conf(server, self._zone)
        except OperationalError as error:
            self.mode = f"none: {error.message}"
            self._retry_at = now + RETRY
            _log.warning("names of the overlay do not resolve here", extra=pairs(reason=self.mode))
        else:
            _log.info("somebody has replaced resolv.conf, taken over again", extra=pairs(path=path))

    def _note(self, error: OperationalError) -> None:
        """Once, however often it is met."""
        if error.message != self._trouble:
            self._trouble = error.message
            _log.warning(error.message, extra=pairs(hint=error.hint))

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
