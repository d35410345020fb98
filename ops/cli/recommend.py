"""`vireo recommend` and `vireo similar`: request slates from the running stack and show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from vireo.ops.cli.output import print_table, table_of
from vireo.ops.cli.recommend_all import (
    AllOption,
    DataOption,
    OutOption,
    ViewersOption,
    chosen_viewers,
    recommend_all,
)
from vireo.ops.edge import CaOption, Edge, TokenOption, edge_of
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.v1 import filter_pb2
    from vireo.v1 import recommendation_pb2 as pb

SECONDS = 5.0
"""Deadline of calls."""
SCOPE = "vireo.read"

PageSizeOption = Annotated[int, typer.Option(help="Number of videos, 1 to 500.")]
FilterOption = Annotated[
    str,
    typer.Option(
        "--filter",
        help="Which videos may be shown: a Filter message as JSON, for example "
        '\'{"conditions": [{"attribute": "tag", "anyOf": ["Comedy"]}]}\'.',
    ),
]
RegionOption = Annotated[
    str, typer.Option(help="Where the viewer is, for the site's rules: for example DE.")
]
ExcludeOption = Annotated[list[str] | None, typer.Option(help="Video not to return.")]
AsJsonOption = Annotated[bool, typer.Option("--json", help="Print the response as JSON.")]
TargetOption = Annotated[
    str, typer.Option(help="host:port of the edge; that of VIREO_HOME's stack if absent.")
]


def recommend(
    viewer: Annotated[
        str | None, typer.Option(help="Your id of the viewer; unknown ids work too.")
    ] = None,
    page_size: PageSizeOption = 10,
    seed: Annotated[str, typer.Option(help="Video that is playing: what comes next?")] = "",
    exclude: ExcludeOption = None,
    filter_json: FilterOption = "",
    region: RegionOption = "",
    pages: Annotated[int, typer.Option(min=1, help="Number of pages to show.")] = 1,
    everyone: AllOption = False,
    data: DataOption = "",
    viewers: ViewersOption = None,
    out: OutOption = None,
    as_json: AsJsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Show what a viewer should watch next; or write it for all viewers to a file."""
    from google.protobuf.json_format import MessageToJson

    from vireo.v1 import recommendation_pb2 as pb

    asked = filter_of(filter_json)
    many = everyone or viewers is not None
    if many != (out is not None) or many == (viewer is not None):
        raise typer.BadParameter("say --viewer ID; or --out FILE with --all or --viewers FILE")
    if many and (seed or exclude or pages > 1 or as_json):
        raise typer.BadParameter("--out goes with --page-size, --filter and --region only")
    try:
        if out is not None:
            batch = pb.BatchRecommendRequest(
                page_size=page_size, filter=asked, context=_context_of(region)
            )
            recommend_all(chosen_viewers(data, viewers), batch, edge_of(target, ca, token), out)
            return
        request = slate_request(viewer or "", page_size, seed, exclude, asked, region)
        request.explain = not as_json
    except ValueError as error:  # not representable in a message; the gateway checks the rest
        raise invalid(error) from error
    for response in _pages(request, edge_of(target, ca, token), pages):
        if as_json:
            typer.echo(MessageToJson(response, ensure_ascii=False))
        else:
            print_slate(response)


def similar(
    video: Annotated[str, typer.Argument(help="Your id of the video.")],
    page_size: PageSizeOption = 10,
    exclude: ExcludeOption = None,
    filter_json: FilterOption = "",
    region: RegionOption = "",
    as_json: AsJsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Show the videos that are most like one."""
    from google.protobuf.json_format import MessageToJson

    from vireo.v1 import recommendation_pb2 as pb
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

    asked = filter_of(filter_json)
    try:
        request = pb.SimilarVideosRequest(
            video_id=video,
            page_size=page_size,
            excluded_video_ids=exclude or (),
            filter=asked,
            context=_context_of(region),
        )
    except ValueError as error:
        raise invalid(error) from error
    with edge_of(target, ca, token).calls(RecommendationServiceStub, SCOPE) as service:
        response = service.SimilarVideos(request, timeout=SECONDS)
    if as_json:
        typer.echo(MessageToJson(response, ensure_ascii=False))
        return
    console = Console()
    _print_items(response.items, console, titles=False)
    _print_filter_unmet(response)
    typer.echo(f"release {response.release_id}")
    _print_degradations(response, console)


def _pages(request: pb.RecommendRequest, edge: Edge, count: int) -> Iterator[pb.RecommendResponse]:
    """Yield up to `count` pages; `request` is changed."""
    for _ in range(count):
        response = ask(request, edge)
        yield response
        request.page_token = response.next_page_token
        if not response.next_page_token:
            return


def filter_of(text: str) -> filter_pb2.Filter | None:
    """Return the filter in an option; raise VireoError if it isn't one."""
    from google.protobuf.json_format import Parse, ParseError

    from vireo.v1 import filter_pb2

    if not text:
        return None
    try:
        return Parse(text, filter_pb2.Filter())
    except ParseError as error:
        raise VireoError(
            f"--filter isn't a Filter message as JSON ({error}); for example: "
            '{"conditions": [{"attribute": "duration", "max": 600}]}'
        ) from error


def slate_request(
    viewer: str,
    page_size: int,
    seed: str,
    exclude: list[str] | None,
    asked: filter_pb2.Filter | None,
    region: str,
) -> pb.RecommendRequest:
    """Return the request for a viewer's slate; raise ValueError if no message can hold a value."""
    from vireo.v1 import recommendation_pb2 as pb

    return pb.RecommendRequest(
        viewer_id=viewer,
        page_size=page_size,
        surface=pb.SURFACE_UP_NEXT if seed else pb.SURFACE_HOME,
        seed_video_id=seed,
        excluded_video_ids=exclude or (),
        filter=asked,
        context=_context_of(region),
    )


def _context_of(region: str) -> pb.RequestContext | None:
    from vireo.v1 import recommendation_pb2 as pb

    return pb.RequestContext(region=region) if region else None


def invalid(error: ValueError) -> VireoError:
    """Return what to raise for a value that no message can hold."""
    return VireoError(f"invalid request ({error}); ids are UTF-8 text, a page has 1 to 500 videos")


def ask(request: pb.RecommendRequest, edge: Edge) -> pb.RecommendResponse:
    """Send a request to a gateway behind `edge`; raise VireoError with the reason on failure."""
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

    with edge.calls(RecommendationServiceStub, SCOPE) as service:
        return service.Recommend(request, timeout=SECONDS)


def print_slate(response: pb.RecommendResponse) -> None:
    """Print a response as a table, followed by its explanation."""
    from vireo.v1 import viewer_pb2

    console = Console()
    _print_items(response.items, console, titles=True)
    _print_filter_unmet(response)
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
        f"{plain(viewer_pb2.Source.Name(each.source), 'SOURCE_')} {each.proposed}"
        for each in explanation.sources
    )
    if proposed:
        typer.echo(f"proposed by: {proposed}")
    if explanation.HasField("filter_share"):
        typer.echo(f"the filter is met by {explanation.filter_share:.2%} of the videos")
    rules = ", ".join(f"{rule.name} {rule.count}" for rule in explanation.rules)
    if rules:
        typer.echo(f"the site's rules, and videos that each concerned: {rules}")
    missing = viewer_pb2.DEGRADATION_FEATURES_MISSING in response.degradations
    if not explanation.history_length and not missing:
        typer.echo("this viewer is unknown: a cold start")
    _print_degradations(response, console)


def _print_items(items: Iterable[pb.SlateItem], console: Console, *, titles: bool) -> None:
    from vireo.v1 import viewer_pb2

    columns = ("", *(("title",) if titles else ()), "video", "score", "sources")
    table = table_of(*columns, texts={"title", "sources"})
    for item in items:
        names = [plain(viewer_pb2.Source.Name(each), "SOURCE_") for each in item.sources]
        table.add_row(
            str(item.position),
            *((Text(item.title),) if titles else ()),
            Text(item.video_id),
            f"{item.score:.4f}",
            ", ".join(names),
        )
    print_table(table, console)


def _print_filter_unmet(response: pb.RecommendResponse | pb.SimilarVideosResponse) -> None:
    from vireo.v1 import viewer_pb2

    if response.filter_unmet:
        fallback = viewer_pb2.DEGRADATION_POPULAR_FALLBACK in response.degradations
        where = "popular list" if fallback else "catalogue"
        typer.echo(f"no video of the {where} meets the filter and the site's rules")


def _print_degradations(
    response: pb.RecommendResponse | pb.SimilarVideosResponse, console: Console
) -> None:
    from vireo.v1 import viewer_pb2

    known = {number: name for name, number in viewer_pb2.Degradation.items()}
    for degradation in response.degradations:
        # A gateway of a later build may send values that are unknown here.
        name = plain(known.get(degradation, f"unknown kind {degradation}"), "DEGRADATION_")
        console.print(Text(f"degraded: {name}", style="yellow"))


def plain(name: str, prefix: str) -> str:
    """Return the words of a name of the API, for example "two tower" for SOURCE_TWO_TOWER."""
    return name.removeprefix(prefix).lower().replace("_", " ")
