"""`vireo release`: publish releases and choose which one each channel serves."""

from __future__ import annotations

import typer

from vireo.ops.cli.release.promote import promote, publish, rollback
from vireo.ops.cli.release.stored import gc, history, list_, show, status, verify

app = typer.Typer(
    no_args_is_help=True,
    help="Publish releases and choose which one is served.\n\n"
    "`publish` uploads a trained release, `promote` points a channel at it if the gate agrees, "
    "`rollback` undoes the last promotion. Pods follow their channel within seconds.",
)
app.command()(publish)
app.command()(promote)
app.command()(rollback)
app.command()(status)
app.command()(history)
app.command("list")(list_)
app.command()(show)
app.command()(verify)
app.command()(gc)
