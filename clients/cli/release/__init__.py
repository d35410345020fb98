"""`vireo release`: publishes releases, and says which one each channel serves."""

from __future__ import annotations

import typer

from clients.cli.release.diff import diff
from clients.cli.release.gc import gc
from clients.cli.release.history import history
from clients.cli.release.listing import list_, show
from clients.cli.release.promote import promote
from clients.cli.release.publish import publish
from clients.cli.release.rollback import rollback
from clients.cli.release.status import status
from clients.cli.release.verify import verify

app = typer.Typer(
    no_args_is_help=True,
    help="Publish releases and say which one is served.\n\n"
    "`publish` uploads what was trained, `promote` has a channel serve it if the gate agrees, "
    "`rollback` takes the last promotion back. Pods follow their channel within seconds.",
)
app.command()(publish)
app.command()(promote)
app.command()(rollback)
app.command()(status)
app.command()(history)
app.command("list")(list_)
app.command()(show)
app.command()(diff)
app.command()(verify)
app.command()(gc)
