"""Options shared by commands of `vireo release`."""

from __future__ import annotations

from typing import Annotated

import typer

Channel = Annotated[str, typer.Option(envvar="VIREO_CHANNEL", help="The channel to change.")]
ReleaseId = Annotated[str, typer.Argument(help="Id of a published release.")]
Share = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of the viewers who get the canary, for example 0.1; unchanged if absent.",
        show_default=False,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Override the gate's refusal; needs --reason, and is recorded."),
]
Reason = Annotated[str, typer.Option(help="Reason, recorded in the channel's history.")]
Viewers = Annotated[
    int, typer.Option(min=1, help="Maximum number of test viewers; larger sets are sampled.")
]
MAX_VIEWERS = 2000
"""Default maximum of test viewers: measures NDCG@10 to about .01 within a minute."""
