"""`vireo demo`: from an empty home to a slate of real videos, in one command."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from server.stack.state import StackState

DATASET = "ml-100k"
PROFILE = "demo"
VIEWER = "1"


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Stop after the first slate instead of staying up.")
    ] = False,
) -> None:
    """Fetch MovieLens-100K, train, publish, serve, and show a first slate.

    Each step is a command of its own, shown as it runs. Steps that an earlier demo finished are
    skipped.
    """
    from clients.cli import data, train, up
    from clients.cli.evaluate import measure_offline
    from clients.cli.release.promote import PromotionRefusedError
    from clients.cli.release.publish import publish

    console = Console(highlight=False)

    def announce(command: str) -> None:
        console.print(f"\n[bold green]$[/] [bold]vireo {command}[/]")

    announce(f"data fetch {DATASET}")
    data.fetch(DATASET)
    announce(f"train --data {DATASET} --profile {PROFILE}")
    train.train(DATASET, PROFILE)
    announce(f"evaluate --data {DATASET}")
    measure_offline(DATASET)
    announce(f"release publish --data {DATASET}")
    try:
        publish(DATASET)
    except PromotionRefusedError as error:
        raise PromotionRefusedError(
            f"{error}; to run the demo separately, set VIREO_HOME to another folder"
        ) from error

    def ready(state: StackState) -> None:
        announce(f"recommend --viewer {VIEWER}")
        _show_slate()
        if once:
            # The stack's own handler stops it, as on Ctrl-C.
            signal.raise_signal(signal.SIGINT)
        else:
            up.show_endpoints(state)

    announce("up")
    up.run_stack_in_terminal(ready)
    typer.echo("stopped; everything is kept, so the next demo starts at once")


def _show_slate() -> None:
    from vireo.v1 import recommendation_pb2

    from clients.cli.edge import edge_of
    from clients.cli.recommend import ask, print_slate

    request = recommendation_pb2.RecommendRequest(viewer_id=VIEWER, page_size=10, explain=True)
    print_slate(ask(request, edge_of()))
