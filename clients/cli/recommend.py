"""`vireo recommend`: request a slate from the running stack and show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from clients.cli.edge import CaOption, Edge, TokenOption, edge_of
from clients.cli.tables import print_table, table_of
from server.errors import VireoError

if TYPE_CHECKING:
    from vireo.v1 import recommendation_pb2 as pb


def recommend(
    viewer: Annotated[str, typer.Option(help="Your id of the viewer; unknown ids work too.")],
    page_size: Annotated[int, typer.Option(help="Number of videos, 1 to 500.")] = 10,
    seed: Annotated[str, typer.Option(help="Video that is playing: what comes next?")] = "",
    exclude: Annotated[list[str] | None, typer.Option(help="Video not to return.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the response as JSON.")] = False,
    target: Annotated[
        str, typer.Option(help="host:port of the edge; that of VIREO_HOME's stack if absent.")
    ] = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Show what a viewer should watch next."""
    from google.protobuf.json_format import MessageToJson
    from vireo.v1 import recommendation_pb2 as pb

    try:
        request = pb.RecommendRequest(
            viewer_id=viewer,
            page_size=page_size,
            surface=pb.SURFACE_UP_NEXT if seed else pb.SURFACE_HOME,
            seed_video_id=seed,
            excluded_video_ids=exclude or (),
            explain=not as_json,
        )
    except ValueError as error:  # not representable in a message; the gateway checks the rest
        raise VireoError(
            f"invalid request ({error}); ids are UTF-8 text, a page has 1 to 500 videos"
        ) from error
    response = ask(request, edge_of(target, ca, token))
    if as_json:
        typer.echo(MessageToJson(response, ensure_ascii=False))
    else:
        print_slate(response)


def ask(request: pb.RecommendRequest, edge: Edge) -> pb.RecommendResponse:
    """Send a request to a gateway behind `edge`; raise VireoError with the reason on failure."""
    import grpc
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

    with edge.channel() as channel:
        try:
            return RecommendationServiceStub(channel).Recommend(request, timeout=5)
        except grpc.RpcError as error:
            raise edge.failure(error, "vireo.read") from error


def print_slate(response: pb.RecommendResponse) -> None:
    """Print a response as a table, followed by its explanation."""
    from vireo.v1 import viewer_pb2

    console = Console()
    table = table_of("", "title", "video", "score", "sources", texts={"title", "sources"})
    for item in response.items:
        names = [_plain(viewer_pb2.Source.Name(each), "SOURCE_") for each in item.sources]
        table.add_row(
            str(item.position),
            Text(item.title),
            Text(item.video_id),
            f"{item.score:.4f}",
            ", ".join(names),
        )
    print_table(table, console)
    explanation = response.explanation
    times = {
        "features": explanation.features_time,
        "retrieval": explanation.retrieval_time,
        "ranking": explanation.ranking_time,
    }
    spent = ", ".join(
        f"{name} {each.ToMicroseconds() / 1000:.1f} ms" for name, each in times.items()
    )
    typer.echo(
        f"release {response.release_id}; {explanation.candidates} candidates ranked for "
        f"{explanation.history_length} watched videos ({spent})"
    )
    proposed = ", ".join(
        f"{_plain(viewer_pb2.Source.Name(each.source), 'SOURCE_')} {each.proposed}"
        for each in explanation.sources
    )
    if proposed:
        typer.echo(f"proposed by: {proposed}")
    missing = viewer_pb2.DEGRADATION_FEATURES_MISSING in response.degradations
    if not explanation.history_length and not missing:
        typer.echo("this viewer is unknown: a cold start")
    known = {number: name for name, number in viewer_pb2.Degradation.items()}
    for degradation in response.degradations:
        # A gateway of a later build may send values that are unknown here.
        name = _plain(known.get(degradation, f"unknown kind {degradation}"), "DEGRADATION_")
        console.print(Text(f"degraded: {name}", style="yellow"))


def _plain(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")
