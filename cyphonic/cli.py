"""The ``cyphonic`` command.  Each tier's commands are imported when they are called, not before."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import click

from cyphonic import __version__
from cyphonic.errors import OperationalError


class _Mount(NamedTuple):
    module: str
    attribute: str
    help: str


_NODE = "cyphonic.node.cli"

_GROUPS: dict[str, dict[str, _Mount]] = {
    "This node": {
        "up": _Mount(_NODE, "up", "Join the overlay."),
        "down": _Mount(_NODE, "down", "Leave it."),
        "status": _Mount(_NODE, "status", "Show this node, its peers and their paths."),
        "ping": _Mount(_NODE, "ping", "Reach a peer by name, and say through what."),
        "ip": _Mount(_NODE, "ip", "Print virtual addresses."),
        "netcheck": _Mount(_NODE, "netcheck", "Find out what this network lets through."),
        "bugreport": _Mount(_NODE, "bugreport", "Write one file for whoever helps."),
        "wait": _Mount(_NODE, "wait", "Wait until this node is joined."),
    },
    "The cloud": {
        "cluster": _Mount("cyphonic.cluster.cli", "command", "Run every tier and an embedded Redis here."),
        "frontend": _Mount("cyphonic.frontend.cli", "command", "Run a frontend: UDP in, pipeline out."),
        "worker": _Mount("cyphonic.workers.cli", "command", "Run workers for the AS, the NMS or both."),
        "relay": _Mount("cyphonic.relay.cli", "command", "Run a relay."),
        "admin": _Mount("cyphonic.admin.cli", "group", "Set up a site; manage enrolment keys and nodes."),
    },
    "Tools": {
        "loadgen": _Mount("cyphonic.loadgen.cli", "command", "Load a cluster with simulated nodes."),
        "lab": _Mount("cyphonic.lab.cli", "group", "Build networks, NATs and nodes in namespaces."),
    },
}
_MOUNTS = {name: mount for group in _GROUPS.values() for name, mount in group.items()}

_EPILOG = """\b
Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  this node is not enrolled
  4  cloud (or, for a tier of the cloud, Redis) unreachable
  5  peer unreachable
  6  denied by policy
"""


class _Root(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_MOUNTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        mount = _MOUNTS.get(cmd_name)
        if mount is None:
            return None
        command = getattr(importlib.import_module(mount.module), mount.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, mounts in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, mount.help) for name, mount in mounts.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OperationalError as error:
            click.echo(f"cyphonic: {error.message}", err=True)
            if error.hint:
                click.echo(f"  {error.hint}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Root, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cyphonic", message="%(prog)s %(version)s")
def main() -> None:
    """Names and addresses that never change, for devices that move: an overlay network, end to end encrypted."""
