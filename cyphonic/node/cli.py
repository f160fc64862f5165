"""``cyphonic up``, ``down``, ``status``, ``ping``, ``ip``, ``netcheck``, ``bugreport`` and ``wait``."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console, RenderableType

from cyphonic.bundle import Bundle
from cyphonic.configuration import choose_file
from cyphonic.errors import CloudUnreachableError, NotEnrolledError, OperationalError, PeerUnreachableError
from cyphonic.logs import LEVELS, set_up_logging
from cyphonic.node.config import NODE_FILE, NodeConfig, load_node
from cyphonic.node.control import ControlClient, NotUpError, WentAwayError
from cyphonic.node.launch import Launched, launch, leave_terminal, report_failure
from cyphonic.node.presentation import render_joined, render_pong, render_status, render_summary
from cyphonic.node.resolvconf import ResolvConf
from cyphonic.node.status import Addresses, PingSummary, Pong, Progress, State, Status, read_document

UP_TIMEOUT = 30.0
DOWN_TIMEOUT = 20.0
PING_PATIENCE = 40.0
"""Seconds between two lines of the daemon: the first may need a direction (15.5 s), a handshake and its answer."""
POLL = 0.1
WIDE = 200
"""Columns of output that is no terminal: lines stay whole for ``grep``."""
_CAP_NET_ADMIN = 12  # <linux/capability.h>

_STATE_TEXTS: dict[State, str] = {
    "starting": "starting",
    "logging-in": "logging in",
    "registering": "logged in, registering",
    "joined": "registered",
    "cloud-unreachable": "the cloud does not answer, trying again",
    "refused": "refused",
    "leaving": "leaving",
}

_config = click.option("--config", type=click.Path(path_type=Path), help="node.toml instead of /etc/cyphonic's.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON with a schema_version.")


@click.command("up")
@click.option(
    "--enrol", metavar="FILE|-", help="Enrolment bundle, for the first time here; - reads it from standard input."
)
@click.option("--name", default="", help="Name of this node, one label; else the bundle's or the host's.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to stderr: for service units.")
@click.option("--timeout", type=float, default=UP_TIMEOUT, show_default=True, help="Seconds to wait for the cloud.")
@click.option("--log-level", type=click.Choice(LEVELS), help="Else log_level of node.toml.")
@_config
def up(
    enrol: str | None, name: str, foreground: bool, timeout: float, log_level: str | None, config: Path | None
) -> None:
    """Join the overlay: start the daemon, wait until it is joined, return.

    The first time it takes an enrolment bundle from the cloud's operator; later, none.
    """
    node = load_node(config, os.environ, {"log_level": log_level})
    if foreground:
        _run_foreground(node, enrol, name)
        return
    _require_privilege()
    client = ControlClient(node.run_dir)
    if client.running():
        _already_up(client, enrol)
        return
    bundle = Bundle.load(enrol) if enrol is not None else None
    _check_enrolment(node, bundle, name)
    arguments = ["up", "--foreground"]
    arguments += ["--enrol", "-"] if bundle is not None else []
    arguments += ["--name", name] if name else []
    arguments += ["--config", str(config.absolute())] if config is not None else []
    arguments += ["--log-level", log_level] if log_level is not None else []
    text = bundle.dump() if bundle is not None else ""
    launched = launch(arguments, text, node.log_file, os.environ)
    _follow(launched, client, timeout)


@click.command("down")
@_config
def down(config: Path | None) -> None:
    """Leave the overlay; remove device, routes and DNS settings.  The identity stays: up needs no bundle again."""
    node = load_node(config, os.environ)
    client = ControlClient(node.run_dir)
    try:
        client.call("down", DOWN_TIMEOUT)
    except NotUpError:
        click.echo("this node was not up")
        client.remove_leftovers()
        if ResolvConf(node.state_dir).give_back():
            click.echo("put /etc/resolv.conf back, which an earlier run had left changed")
        return
    deadline = time.monotonic() + DOWN_TIMEOUT
    while client.running():
        if time.monotonic() > deadline:
            raise OperationalError("the daemon does not end", f"its log may say why: {node.log_file}")
        time.sleep(POLL)
    click.echo("this node has left the overlay")
    ResolvConf(node.state_dir).give_back()  # the daemon has; if it could not, this says why


@click.command("status")
@_json
@_config
def status(as_json: bool, config: Path | None) -> None:
    """Show this node, its peers and their paths."""
    result = _client(config).call("status")
    if as_json:
        _print_json(result, indent=2)
    else:
        _print(render_status(read_document(result, Status), time.time()))


@click.command("ping")
@click.argument("name")
@click.option("-c", "--count", type=click.IntRange(1, 1_000_000), default=3, show_default=True)
@_json
@_config
def ping(name: str, count: int, as_json: bool, config: Path | None) -> None:
    """Reach a peer by name through the tunnel, and say through what: direct, or relayed by which relay."""
    round_trips = []
    for result in _client(config).stream("ping", PING_PATIENCE, name=name, count=count):
        if as_json:
            _print_json(result)
        if "sequence" in result:
            pong = read_document(result, Pong)
            round_trips += [pong.rtt] if pong.rtt is not None else []
            rendered = render_pong(pong)
        else:
            rendered = render_summary(read_document(result, PingSummary), round_trips)
        if not as_json:
            _print(rendered)
    if not round_trips:
        raise PeerUnreachableError(f"{name} does not answer", "see: cyphonic status")


@click.command("ip")
@click.argument("name", default="")
@click.option("-4", "only", flag_value="ipv4", help="Only the IPv4 address.")
@click.option("-6", "only", flag_value="ipv6", help="Only the IPv6 address.")
@_json
@_config
def ip(name: str, only: str | None, as_json: bool, config: Path | None) -> None:
    """Print the virtual addresses of this node, or of the one called NAME: IPv6 first, one a line."""
    result = _client(config).call("ip", PING_PATIENCE, name=name)
    if as_json:
        _print_json(result)
        return
    addresses = read_document(result, Addresses)
    wanted = [getattr(addresses, only)] if only else [addresses.ipv6, addresses.ipv4]
    found = [address for address in wanted if address]
    if not found:
        raise OperationalError(f"{addresses.name} has no such address")
    click.echo("\n".join(found))


@click.command("wait")
@click.option("--timeout", type=float, help="Seconds; without it a daemon that is not up is an error at once.")
@_json
@_config
def wait(timeout: float | None, as_json: bool, config: Path | None) -> None:
    """Wait until this node is joined: for scripts, and for units that need the overlay.

    Ends with 0 when it is, with 3 when the cloud refuses this node, and at the timeout with 4 when the cloud does
    not answer or with 1 when there is no daemon.  One that ends meanwhile may come back until then.
    """
    client = _client(config)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            progress = _until_joined(client, deadline, lambda _: None)
            break
        except (NotUpError, WentAwayError):
            if deadline is None or time.monotonic() > deadline:
                raise
        time.sleep(POLL)
    if as_json:
        _print_json(msgspec.to_builtins(progress))


@click.command("netcheck")
@_json
@_config
def netcheck(as_json: bool, config: Path | None) -> None:
    """Find out what this network lets through: NAT, filters, relays, path MTU.

    Ends with 4 when nothing comes back by UDP.
    """
    # Imported here, as in _run_foreground.
    from cyphonic.node.netcheck.command import netcheck as check
    from cyphonic.node.netcheck.presentation import render_netcheck

    node = load_node(config, os.environ)
    with _progress() as tell:
        found = check(node, tell)
    if as_json:
        _print_json(msgspec.to_builtins(found), indent=2)
    else:
        _print(render_netcheck(found))
    if found.udp != "works":
        raise CloudUnreachableError(found.text)


@click.command("bugreport")
@click.option("-o", "--output", metavar="FILE|-", default="", help="Else cyphonic-bugreport-DATE.txt here.")
@click.option("--mask", is_flag=True, help="Replace addresses, names and keys, each by the same word everywhere.")
@_config
def bugreport(output: str, mask: bool, config: Path | None) -> None:
    """Write one file that shows what is wrong here, for whoever helps.  It holds no secret."""
    from cyphonic.node.bugreport import bugreport as report

    node = load_node(config, os.environ)
    with _progress() as tell:
        text = report(node, choose_file(config, os.environ, NODE_FILE), mask=mask, tell=tell)
    if output == "-":
        click.echo(text)
        return
    file = Path(output or time.strftime("cyphonic-bugreport-%Y%m%d-%H%M%S.txt"))
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
    except OSError as error:
        raise OperationalError(f"{file} cannot be written: {error.strerror}", "choose another: -o FILE") from None
    click.echo(str(file) if mask else f"{file}; with --mask it would hold no addresses and names")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What takes seconds shows on a terminal what it is doing, and is silent otherwise."""
    console = Console(stderr=True, highlight=False)
    with console.status("looking") as spinner:
        yield lambda text: spinner.update(text)


def _run_foreground(node: NodeConfig, enrol: str | None, name: str) -> None:
    """The daemon itself."""
    # Imported here: the other commands need neither cryptography nor netlink, and should be quick.
    from cyphonic.node.daemon import Daemon
    from cyphonic.node.enrolment import enrol as enrol_here
    from cyphonic.node.statefile import StateFile

    set_up_logging("node", node.log_level, journal="JOURNAL_STREAM" in os.environ)
    try:
        leave_terminal(os.environ)
        _require_privilege()
        if ControlClient(node.run_dir).running():  # before anything is written that is the other daemon's
            raise OperationalError("cyphonic is already up on this machine", "see: cyphonic status")
        bundle = Bundle.load(enrol) if enrol is not None else None
        state_file = StateFile(node.state_dir)
        state, enrolment_key = enrol_here(state_file, bundle, name, socket.gethostname(), os.urandom)
        Daemon(node, state_file, state, enrolment_key=enrolment_key, environ=os.environ).run()
    except OperationalError as error:
        report_failure(error, os.environ)
        raise


def _check_enrolment(node: NodeConfig, bundle: Bundle | None, name: str) -> None:
    """What can be said before a daemon is started."""
    from cyphonic.node.enrolment import check_name
    from cyphonic.node.statefile import StateFile

    if name:
        check_name(name)
    if bundle is None and StateFile(node.state_dir).load() is None:
        raise NotEnrolledError(
            "this machine has not joined an overlay yet",
            "ask the cloud's operator for an enrolment bundle, then: sudo cyphonic up --enrol FILE",
        )


def _already_up(client: ControlClient, enrol: str | None) -> None:
    if enrol is not None:
        raise OperationalError("cyphonic is already up on this machine", "first: sudo cyphonic down")
    state = read_document(client.call("status"), Status)
    click.echo(f"already up: {state.fqdn or state.name}, {_STATE_TEXTS[state.state]}")


def _follow(launched: Launched, client: ControlClient, timeout: float) -> None:
    """Show what the new daemon does until it is joined."""
    deadline = time.monotonic() + timeout
    console = Console(stderr=True, highlight=False)
    with console.status("starting") as spinner:
        told = ""

        def tell(progress: Progress) -> None:
            nonlocal told
            text = _STATE_TEXTS[progress.state] + (f" ({progress.text})" if progress.text else "")
            if console.is_terminal:
                spinner.update(text)
            elif text != told:
                click.echo(text, err=True)
            told = text

        launched.wait_until_listening(client)
        try:
            _until_joined(client, deadline, tell)
        except CloudUnreachableError as error:
            _give_up(client, error)
        except NotEnrolledError:  # refused for good: a daemon that can do nothing should not stay
            _stop_quietly(client)
            raise
        except OperationalError:
            if not client.running():
                raise launched.failure() from None
            raise
    state = read_document(client.call("status"), Status)
    _print(render_joined(Addresses(state.fqdn, state.ipv6, state.ipv4), state.dns))


def _until_joined(client: ControlClient, deadline: float | None, tell: Callable[[Progress], None]) -> Progress:
    """Raise CloudUnreachableError at the deadline, NotEnrolledError when the cloud refuses this node."""
    progress = Progress("starting")
    for result in client.stream("wait", 10.0):
        progress = read_document(result, Progress)
        tell(progress)
        if progress.state != "joined" and deadline is not None and time.monotonic() > deadline:
            raise CloudUnreachableError(
                f"not joined in time: {progress.text or _STATE_TEXTS[progress.state]}",
                "is the network up, and the cloud?  cyphonic status",
            )
    return progress


def _give_up(client: ControlClient, error: CloudUnreachableError) -> NoReturn:
    """A node that belongs to a cloud goes on trying; one that has never been accepted does not."""
    if read_document(client.call("status"), Status).fqdn:
        raise CloudUnreachableError(
            error.message,
            "cyphonic goes on trying in the background; see 'cyphonic status', or end it: cyphonic down",
        ) from None
    _stop_quietly(client)
    raise CloudUnreachableError(
        error.message, "is the network up?  Are the cloud's endpoints in the bundle right and reachable by UDP?"
    ) from None


def _stop_quietly(client: ControlClient) -> None:
    try:
        client.call("down", DOWN_TIMEOUT)
    except OperationalError:  # it has ended by itself
        return


def _require_privilege() -> None:
    """Raise OperationalError for a process that could not make a network device."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return  # the kernel will say
    if not effective >> _CAP_NET_ADMIN & 1:
        raise OperationalError(
            "joining needs the right to make a network device",
            "run as root: sudo cyphonic up (or with CAP_NET_ADMIN)",
        )


def _client(config: Path | None) -> ControlClient:
    return ControlClient(load_node(config, os.environ).run_dir)


def _print_json(result: Any, indent: int = -1) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(result), indent=indent).decode())


def _print(rendered: RenderableType) -> None:
    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=WIDE)
    console.print(rendered)
