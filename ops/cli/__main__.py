"""The `vireo` command: registers the command groups and prints an error as one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from vireo.ops.cli import (
    backup,
    bench,
    control,
    data,
    demo,
    doctor,
    evaluate,
    events,
    explain,
    features,
    recommend,
    release,
    rules,
    security,
    status,
    top,
    train,
    up,
    upgrade,
    viewers,
)
from vireo.server.errors import VireoError

app = typer.Typer(
    name="vireo",
    help="Train, ship and serve two-stage video recommenders.\n\n"
    "First steps: `vireo demo`, or with your own data: `vireo data import`, `vireo train`, "
    "`vireo release publish`, `vireo up`, `vireo recommend`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data", help="Fetch, import and show data sets.")
app.add_typer(features.app, name="features", help="Build and show features in Feast.")
app.command("train")(train.train)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(release.app, name="release")
app.command("up")(up.up)
app.command("restart")(up.restart)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("top")(top.top)
app.command("certificates")(security.certificates)
app.command("token")(security.token)
app.add_typer(control.app, name="control", help="Run Envoy's control plane and show its state.")
app.command("recommend")(recommend.recommend)
app.command("similar")(recommend.similar)
app.add_typer(rules.app, name="rules", help="Check rules of the site.")
app.command("explain")(explain.explain)
app.add_typer(events.app, name="events", help="See and replay what viewers did.")
app.add_typer(viewers.app, name="viewers", help="Erase what is known of a viewer.")
app.add_typer(upgrade.app, name="upgrade")
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("demo")(demo.demo)
app.command(
    "bench",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(bench.bench)

_MISSING_EXTRA = {
    "training": {
        "implicit",
        "jinja2",
        "onnx",
        "onnxscript",
        "pandas",
        "pyarrow",
        "scipy",
        "threadpoolctl",
        "torch",
    },
    "serving": {"onnxruntime", "faiss", "minio", "feast"},
    "control": {"envoy"},
    "security": {"cryptography", "jwt"},
}

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
    """Run the CLI; exit with 0, an error's code, 2 for wrong usage, 130 for Ctrl-C."""
    try:
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
    except ModuleNotFoundError as error:
        extras = [name for name, modules in _MISSING_EXTRA.items() if error.name in modules]
        if not extras:
            raise
        _fail(f"this command needs {error.name}; install it with: pip install 'vireo[{extras[0]}]'")


def _fail(message: str, code: int = 1) -> NoReturn:
    errors = Console(stderr=True, highlight=False)
    errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
