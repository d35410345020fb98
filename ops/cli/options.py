"""Options that commands share: each has one name and one meaning in all of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vireo.server.errors import VireoError
from vireo.server.home import Home

_MARKS = ("data/*/dataset.json", "runs/*/release/manifest.json")
"""What importing a data set and training on one write last."""


def newest_dataset(home: Home, *, trained: bool = False) -> str:
    """Return the data set that was imported or trained last, or that was `trained` last.

    Raises:
        VireoError: there is none.
    """
    files = [
        file for mark in _MARKS[trained:] for file in home.root.glob(mark.replace("*", "[!.]*"))
    ]
    if files:
        newest = max(files, key=lambda file: file.stat().st_mtime)
        return newest.relative_to(home.root).parts[1]
    if trained:
        raise VireoError(f"there is no trained release in {home.root}; make one with: vireo train")
    raise VireoError(
        f"there is no data set in {home.root}; get one with: vireo data fetch ml-100k, or import "
        "your own: vireo data import --help"
    )


def chosen_dataset(name: str) -> str:
    """Return the data set that `--data` names, or else the newest; see `newest_dataset`."""
    return name or newest_dataset(Home.current())


def _trained(name: str) -> str:
    return name or newest_dataset(Home.current(), trained=True)


_DATA = "Data set; by default the one that was imported or trained last."
DataOption = Annotated[
    str,
    typer.Option("--data", metavar="NAME", callback=chosen_dataset, help=_DATA, show_default=False),
]
SomeDataOption = Annotated[
    str, typer.Option("--data", metavar="NAME", help=_DATA, show_default=False)
]
"""It names one only if the command needs one: see `chosen_dataset`."""
TrainedOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME",
        callback=_trained,
        help="Data set whose newest release to use; by default the one that was trained last.",
        show_default=False,
    ),
]
NewDataOption = Annotated[
    str, typer.Option("--data", metavar="NAME", help="Name of the data set to write.")
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace what is there under that name already.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Override a failed quality check.")]
RandomSeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Random seed, by default always the same one."),
]
MaxViewersOption = Annotated[
    int, typer.Option("--max-viewers", min=1, help="Maximum viewers; larger sets are sampled.")
]
ViewersOption = Annotated[
    Path | None,
    typer.Option("--viewers", metavar="FILE", help="Viewers: a file of ids, one a line."),
]

_VIEWER = typer.Argument(metavar="VIEWER", help="Your id of the viewer; unknown ones work too.")
ViewerArgument = Annotated[str, _VIEWER]
SomeViewerArgument = Annotated[str | None, _VIEWER]
VideoArgument = Annotated[str, typer.Argument(metavar="VIDEO", help="Your id of the video.")]

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask whether to go on.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
]

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="HOST:PORT",
        help="The edge to call; by default that of the stack on this home.",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="VIREO_CA",
        help="CA of the certificates of what is called, PEM; calls then use TLS.",
    ),
]
TokenOption = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="VIREO_TOKEN",
        help="Bearer token. Prefer the variable: other users can see a command's options.",
    ),
]
ControlOption = Annotated[
    str,
    typer.Option(
        "--control",
        metavar="HOST:PORT",
        help="The control plane to call; by default that of the stack on this home.",
    ),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option("--certificate", help="Client certificate for mutual TLS with processes, PEM."),
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="Key of the certificate, PEM.")]


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what can't be undone, unless the answer is given; end with 1 if it is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise VireoError(f"{question} Nobody can answer here: to go on, add --yes")
    typer.confirm(question, abort=True, err=True)
