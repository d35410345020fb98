"""Options that several commands of `vireo release` take."""

from __future__ import annotations

from typing import Annotated

import typer

Channel = Annotated[str, typer.Option(envvar="VIREO_CHANNEL", help="The channel to change.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ReleaseId = Annotated[str, typer.Argument(help="Id of a published release.")]
Share = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Of the canary: share of the viewers who get it, for example 0.1; as it is if absent.",
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Go on where the gate refuses; needs --reason, and is recorded."),
]
Reason = Annotated[str, typer.Option(help="Why; kept in the channel's history.")]
Viewers = Annotated[
    int, typer.Option(min=1, help="Test viewers to ask for at most; of more, so many are drawn.")
]
MOST_VIEWERS = 2000
"""NDCG@10 is then known to about .01, within a minute."""
