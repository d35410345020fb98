"""The `vireo` command: registers the command groups and prints an error as one line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from vireo.ops.cli.installation import CHECKOUT, check_stubs, import_failure
from vireo.ops.cli.output import only_warnings
from vireo.server.errors import VireoError

_GROUPS = {
    "Begin": {
        "demo": ("demo:demo", "From an empty home to a slate of real videos."),
    },
    "Data and training": {
        "data": ("data:app", "Data sets: import, fetch, from-events, synth, list, show, rm."),
        "features": ("features:app", "Features of viewers and videos, in Feast: build, show."),
        "train": ("train:train", "Train both models and stage a release."),
        "evaluate": (
            "evaluate:app",
            "Measure the newest release on held-out watches; study, served, page.",
        ),
        "archive": ("archive:app", "Slates and events as Parquet files: list, fetch."),
        "replay": ("replay:replay", "Make archived slates again, by their own release or another."),
        "report": (
            "report:app",
            "What viewers did with what they were shown, and with which features: traffic, skew.",
        ),
        "release": (
            "release:app",
            "What is published and served: publish, promote RELEASE or CHANNEL (--dry-run asks the "
            "gate alone), rollback, status, history, list, show, verify, gc.",
        ),
    },
    "Recommendations": {
        "recommend": (
            "recommend:recommend",
            "Show what a viewer should watch next, or write it for `--all` to `--out FILE`.",
        ),
        "similar": ("recommend:similar", "Show the videos that are most like one."),
        "explain": ("recommend:explain", "Show why a video is on a viewer's page, or isn't."),
        "rules": ("rules:app", "Rules of the site: check."),
    },
    "What changes while it serves": {
        "events": (
            "events:app",
            "What viewers did: record, tail, replay, limits; list-dead shows what couldn't be "
            "applied, replay-dead tries it again.",
        ),
        "videos": ("videos:app", "The catalogue: upsert, remove."),
        "viewers": ("viewers:app", "What is known of a viewer: erase."),
    },
    "The stack on this machine": {
        "up": ("up:up", "Serve the channel's release, supervised, until Ctrl-C."),
        "down": ("up:down", "End the running stack."),
        "restart": ("up:restart", "Restart processes of the running stack one after the other."),
        "layout": ("up:layout", "Pods that are separate, or one process: set."),
        "status": ("up:status", "Show every process of the running stack."),
        "logs": ("logs:logs", "Show what its processes wrote."),
        "top": ("top:top", "Show what it does, until Ctrl-C."),
    },
    "Operation": {
        "doctor": ("doctor:doctor", "Find out what is wrong, and what to do about it."),
        "certificates": (
            "security:certificates",
            "Certificates for `vireo up --secure`: make, replace-authority.",
        ),
        "tokens": ("security:tokens", "Tokens for this home's secured stack: make."),
        "control": ("control:app", "Envoy's control plane: serve, snapshot."),
        "backup": ("backup:backup", "Store what can't be made again in a bucket of its own."),
        "restore": ("backup:restore", "Bring back what a backup has."),
        "upgrade": ("upgrade:app", "Whether this build reads what a deployment holds: check."),
    },
}
"""Where each command is, below this package, and what it does, in the groups of `--help`."""
_COMMANDS = {name: each for group in _GROUPS.values() for name, each in group.items()}


class LazyGroup(TyperGroup):
    """The commands, whose modules are imported once they are called: all would take seconds."""

    def loaded(self, name: str) -> Any:
        """Return a command with its options, or a group of commands."""
        module, _, attribute = _COMMANDS[name][0].partition(":")
        found = getattr(import_module(f"{__package__}.{module}"), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        single.command(name)(found)
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that the first argument names."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, self.loaded(name) if name in _COMMANDS else command, rest


app = typer.Typer(
    name="vireo",
    cls=LazyGroup,
    help="Train, ship and serve two-stage video recommenders.\n\n"
    "First steps: `vireo demo`, or with your own data: `vireo data import`, `vireo train`, "
    "`vireo release publish`, `vireo up`, `vireo recommend`. Commands take a data set as `--data "
    "NAME`, viewers and videos as arguments, and print for programs with `--json`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for _group, _commands in _GROUPS.items():
    for _name, (_, _help) in _commands.items():
        app.command(_name, help=_help, rich_help_panel=_group)(lambda: None)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vireo {version('vireo')}")
        raise typer.Exit


_TRACEBACK = "--traceback"


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
    _traceback: Annotated[
        bool, typer.Option(_TRACEBACK, help="Show where an error comes from.")
    ] = False,
) -> None:
    """Take the options of the command itself."""
    only_warnings()


@app.command(
    rich_help_panel="Operation",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(context: typer.Context) -> None:
    """Measure performance, side by side in one run: `vireo bench --help`, from a checkout."""
    if not (CHECKOUT / "bench" / "__main__.py").exists():
        raise VireoError(
            "vireo bench measures a checkout of the source, which this isn't: run it in one, after "
            "make setup"
        )
    paths = (str(CHECKOUT), os.environ.get("PYTHONPATH"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    os.execve(sys.executable, [sys.executable, "-m", "bench", *context.args], environment)  # noqa: S606


def grouped_commands() -> dict[str, dict[str, Any]]:
    """Return each installed command with its options, by group and by how it is called."""
    root = typer.main.get_command(app)
    assert isinstance(root, LazyGroup)
    return {
        group: {
            called: each
            for name in commands
            for called, each in _leaves(f"vireo {name}", root.loaded(name))
        }
        for group, commands in _GROUPS.items()
    }


def _leaves(called: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield a command, or those of a group, of which some can be called without a verb."""
    if not isinstance(command, TyperGroup):
        yield called, command
        return
    if command.invoke_without_command:
        yield called, command
    for name, each in command.commands.items():
        yield from _leaves(f"{called} {name}", each)


_DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
)
"""Errors that the user can fix; any other is a bug and prints its traceback."""


def main(run: Callable[[], object] = app) -> None:
    """Run the CLI; exit with 0, an error's code, 2 for wrong usage, 130 for Ctrl-C.

    `vireo --traceback COMMAND` raises the error instead.
    """
    if sys.argv[1:2] == [_TRACEBACK]:
        run()
        return
    try:
        check_stubs()
        run()
    except VireoError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _fail(
            f"{error}; free some disk space, or set VIREO_HOME, and TMPDIR for temporary files, to "
            "a folder that this user can write"
        )
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (message := import_failure(error)):
            raise
        _fail(message)


def _fail(message: str, code: int = 1) -> NoReturn:
    errors = Console(stderr=True, highlight=False)
    errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
