"""`vireo recommend`, `similar` and `explain`: request slates from a stack, and show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

from vireo.ops.cli.options import (
    CaOption,
    JsonOption,
    SomeDataOption,
    SomeViewerArgument,
    TargetOption,
    TokenOption,
    VideoArgument,
    ViewerArgument,
    ViewersOption,
)
from vireo.ops.cli.output import print_table, table_of, words
from vireo.ops.cli.recommend_all import AllOption, OutOption, chosen_viewers, recommend_all
from vireo.ops.edge import Edge, edge_of
from vireo.server.errors import UsageError, VireoError
from vireo.v1 import filter_pb2, viewer_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

SECONDS = 5.0
"""Deadline of calls."""


def _filter(text: str) -> filter_pb2.Filter:
    """Return the filter in an option; raise UsageError if it isn't one."""
    try:
        return Parse(text, filter_pb2.Filter())
    except ParseError as error:
        raise UsageError(
            f"--filter isn't a Filter message as JSON ({error}); for example: "
            '{"conditions": [{"attribute": "duration", "max": 600}]}'
        ) from error


PageSizeOption = Annotated[int, typer.Option(help="Number of videos, 1 to 500.")]
FilterOption = Annotated[
    Any,
    typer.Option(
        "--filter",
        parser=_filter,
        metavar="JSON",
        help="Which videos may be shown: a Filter message as JSON, for example "
        '\'{"conditions": [{"attribute": "tag", "anyOf": ["Comedy"]}]}\'.',
    ),
]
RegionOption = Annotated[
    str, typer.Option(help="Where the viewer is, for the site's rules: for example DE.")
]
PlayingOption = Annotated[
    str, typer.Option(metavar="VIDEO", help="Video that is playing: what comes next?")
]
ExcludeOption = Annotated[
    list[str] | None, typer.Option(metavar="VIDEO", help="Video not to return; repeat it.")
]


def recommend(
    viewer: SomeViewerArgument = None,
    page_size: PageSizeOption = 10,
    playing: PlayingOption = "",
    exclude: ExcludeOption = None,
    asked: FilterOption = None,
    region: RegionOption = "",
    pages: Annotated[int, typer.Option(min=1, help="Number of pages to show.")] = 1,
    everyone: AllOption = False,
    data: SomeDataOption = "",
    viewers: ViewersOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Show what a viewer should watch next; or write it for many viewers to a file.

    vireo recommend 1 --page-size 5

    vireo recommend --all --out slates.parquet
    """
    many = everyone or viewers is not None
    if many != (out is not None) or many == (viewer is not None):
        raise typer.BadParameter("name a VIEWER; or --out FILE with --all or --viewers FILE")
    if data and not many:
        raise typer.BadParameter("--data goes with --all: a stack serves one data set")
    if many and (playing or exclude or pages > 1):
        raise typer.BadParameter("--out goes with --page-size, --filter, --region and --json only")
    edge = edge_of(target, ca, token)
    with _messages():
        request = _slate_request(viewer or "", page_size, playing, exclude, asked, region)
        batch = pb.BatchRecommendRequest(
            page_size=page_size, filter=asked, context=_context(region)
        )
    if out is not None:
        recommend_all(chosen_viewers(data, viewers), batch, edge, out, as_json=as_json)
        return
    request.explain = not as_json
    for _ in range(pages):
        response = ask(request, edge)
        _show(response, print_slate, as_json, indent=2 if pages == 1 else None)
        request.page_token = response.next_page_token
        if not response.next_page_token:
            return


def similar(
    video: VideoArgument,
    page_size: PageSizeOption = 10,
    exclude: ExcludeOption = None,
    asked: FilterOption = None,
    region: RegionOption = "",
    as_json: JsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Show the videos that are most like one.

    vireo similar 50
    """
    with _messages():
        request = pb.SimilarVideosRequest(
            video_id=video,
            page_size=page_size,
            excluded_video_ids=exclude or (),
            filter=asked,
            context=_context(region),
        )
    with edge_of(target, ca, token).calls(RecommendationServiceStub, "vireo.read") as service:
        response = service.SimilarVideos(request, timeout=SECONDS)
    _show(response, print_similar, as_json)


def explain(
    viewer: ViewerArgument,
    video: VideoArgument,
    page_size: PageSizeOption = 10,
    playing: PlayingOption = "",
    exclude: ExcludeOption = None,
    asked: FilterOption = None,
    region: RegionOption = "",
    as_json: JsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Show why a video is on a viewer's page, or isn't.

    vireo explain 1 50
    """
    with _messages():
        slate = _slate_request(viewer, page_size, playing, exclude, asked, region)
        request = pb.ExplainVideoRequest(request=slate, video_id=video)
    with edge_of(target, ca, token).calls(RecommendationServiceStub, "vireo.explain") as service:
        response = service.ExplainVideo(request, timeout=SECONDS)
    _show(response, print_explanation, as_json)


def ask(request: pb.RecommendRequest, edge: Edge) -> pb.RecommendResponse:
    """Send a request to a gateway behind `edge`; raise VireoError with the reason on failure."""
    with edge.calls(RecommendationServiceStub, "vireo.read") as service:
        return service.Recommend(request, timeout=SECONDS)


@contextmanager
def _messages() -> Iterator[None]:
    """Raise VireoError for a value that no message can hold; the gateway checks the rest."""
    try:
        yield
    except ValueError as error:
        raise VireoError(
            f"invalid request ({error}); ids are UTF-8 text, a page has 1 to 500 videos"
        ) from error


def _slate_request(
    viewer: str,
    page_size: int,
    playing: str,
    exclude: list[str] | None,
    asked: filter_pb2.Filter | None,
    region: str,
) -> pb.RecommendRequest:
    return pb.RecommendRequest(
        viewer_id=viewer,
        page_size=page_size,
        surface=pb.SURFACE_UP_NEXT if playing else pb.SURFACE_HOME,
        seed_video_id=playing,
        excluded_video_ids=exclude or (),
        filter=asked,
        context=_context(region),
    )


def _context(region: str) -> pb.RequestContext | None:
    return pb.RequestContext(region=region) if region else None


def _show(
    response: Message, show: Callable[[Any], None], as_json: bool, *, indent: int | None = 2
) -> None:
    """Print a response; as JSON in one line without `indent`."""
    if as_json:
        typer.echo(MessageToJson(response, ensure_ascii=False, indent=indent))
    else:
        show(response)


def print_slate(response: pb.RecommendResponse) -> None:
    """Print a response as a table, followed by its explanation."""
    _print_items(response.items, "title")
    scores = [item.score for item in response.items]
    if scores != sorted(scores, reverse=True):
        typer.echo("mixed for variety, so not in the order of scores")
    _print_filter_unmet(response)
    explanation = response.explanation
    spent = ", ".join(
        f"{name} {getattr(explanation, f'{name}_time').ToMicroseconds() / 1000:.1f} ms"
        for name in ("features", "retrieval", "ranking")
    )
    typer.echo(
        f"release {response.release_id}; {explanation.candidates} candidates ranked for "
        f"{explanation.history_length} watched videos ({spent})"
    )
    proposed = ", ".join(
        f"{words(viewer_pb2.Source, each.source)} {each.proposed}" for each in explanation.sources
    )
    if proposed:
        typer.echo(f"proposed by: {proposed}")
    if explanation.HasField("filter_share"):
        share = f"{explanation.filter_share:.2%} of the videos"
        typer.echo(f"the filter, with those of the site's rules, is met by {share}")
    rules = ", ".join(f"{rule.name} {rule.count}" for rule in explanation.rules)
    if rules:
        typer.echo(f"the site's rules, and videos that each concerned: {rules}")
    missing = viewer_pb2.DEGRADATION_FEATURES_MISSING in response.degradations
    if not explanation.history_length and not missing:
        typer.echo("this viewer is unknown: a cold start")
    _print_degradations(response)


def print_similar(response: pb.SimilarVideosResponse) -> None:
    """Print similar videos as a table."""
    _print_items(response.items)
    _print_filter_unmet(response)
    typer.echo(f"release {response.release_id}")
    _print_degradations(response)


def _print_items(items: Iterable[pb.SlateItem], *titles: str) -> None:
    table = table_of("", *titles, "video", "score", "sources", texts={"title", "sources"})
    for item in items:
        table.add_row(
            str(item.position),
            *(Text(item.title) for _ in titles),
            Text(item.video_id),
            f"{item.score:.4f}",
            ", ".join(words(viewer_pb2.Source, each) for each in item.sources),
        )
    print_table(table)


def _print_filter_unmet(response: pb.RecommendResponse | pb.SimilarVideosResponse) -> None:
    if response.filter_unmet:
        fallback = viewer_pb2.DEGRADATION_POPULAR_FALLBACK in response.degradations
        where = "popular list" if fallback else "catalogue"
        typer.echo(f"no video of the {where} meets the filter and the site's rules")


def _print_degradations(response: pb.RecommendResponse | pb.SimilarVideosResponse) -> None:
    for each in response.degradations:
        text = Text(f"degraded: {words(viewer_pb2.Degradation, each)}", style="yellow")
        Console().print(text)


def print_explanation(response: pb.ExplainVideoResponse) -> None:
    """Print the reason, followed by tables of ranks, scores and the model's inputs."""
    place = f"on the page at {response.position}"
    if response.lost_at:
        place = f"not on the page, lost at {words(pb.LostAt, response.lost_at)}"
    Console().print(Text(f"{place}: {response.reason}"))
    ranks = table_of("source", "rank", "proposed", texts={"source"})
    for each in response.source_ranks:
        source = words(viewer_pb2.Source, each.source)
        ranks.add_row(source, str(each.rank or "-"), str(each.proposed))
    if response.source_ranks:
        print_table(ranks)
    values = table_of("", "value", texts={""})
    for name in ("retrieval_scores", "task_weights", "ranking_features"):
        for pair in getattr(response, name):
            values.add_row(Text(f"{name.replace('_', ' ')}: {pair.name}"), f"{pair.value:.4f}")
    if response.HasField("task_scores"):
        values.add_row("score", f"{response.score:.4f}")
        for field, value in response.task_scores.ListFields():
            values.add_row(f"task: {field.name}", f"{value:.4f}")
    if values.row_count:
        print_table(values)
    age = ""
    if response.HasField("features_age"):
        changed = timedelta(seconds=response.features_age.seconds)
        age = f"; the viewer's features changed {changed} ago"
    typer.echo(f"release {response.release_id}; {response.candidates} candidates{age}")
