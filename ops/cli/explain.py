"""`vireo explain`: tell at which stage of a slate a video was lost, and why, or its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from vireo.ops.cli.output import print_table, table_of
from vireo.ops.cli.recommend import (
    SECONDS,
    AsJsonOption,
    ExcludeOption,
    FilterOption,
    PageSizeOption,
    RegionOption,
    TargetOption,
    filter_of,
    invalid,
    plain,
    slate_request,
)
from vireo.ops.edge import CaOption, TokenOption, edge_of

if TYPE_CHECKING:
    from vireo.v1 import recommendation_pb2 as pb


def explain(
    video: Annotated[str, typer.Argument(help="Your id of the video.")],
    viewer: Annotated[str, typer.Option(help="Your id of the viewer; unknown ids work too.")],
    page_size: PageSizeOption = 10,
    seed: Annotated[str, typer.Option(help="Video that is playing.")] = "",
    exclude: ExcludeOption = None,
    filter_json: FilterOption = "",
    region: RegionOption = "",
    as_json: AsJsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Show why a video is on a viewer's page, or isn't."""
    from google.protobuf.json_format import MessageToJson

    from vireo.v1 import recommendation_pb2 as pb
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

    asked = filter_of(filter_json)
    try:
        request = pb.ExplainVideoRequest(
            request=slate_request(viewer, page_size, seed, exclude, asked, region),
            video_id=video,
        )
    except ValueError as error:
        raise invalid(error) from error
    edge = edge_of(target, ca, token)
    with edge.calls(RecommendationServiceStub, "vireo.explain") as service:
        response = service.ExplainVideo(request, timeout=SECONDS)
    if as_json:
        typer.echo(MessageToJson(response, ensure_ascii=False))
    else:
        print_explanation(response, Console())


def print_explanation(response: pb.ExplainVideoResponse, console: Console) -> None:
    """Print the reason, followed by tables of ranks, scores and the model's inputs."""
    from vireo.v1 import recommendation_pb2 as pb
    from vireo.v1 import viewer_pb2

    stages = {number: name for name, number in pb.LostAt.items()}
    if response.lost_at:
        stage = plain(stages.get(response.lost_at, f"stage {response.lost_at}"), "LOST_AT_")
        console.print(Text(f"lost at {stage}: {response.reason}"))
    else:
        console.print(Text(f"on the page at {response.position}: {response.reason}"))
    names = {number: name for name, number in viewer_pb2.Source.items()}
    ranks = table_of("source", "rank", "proposed", texts={"source"})
    for each in response.source_ranks:
        source = plain(names.get(each.source, f"source {each.source}"), "SOURCE_")
        ranks.add_row(source, str(each.rank or "-"), str(each.proposed))
    if response.source_ranks:
        print_table(ranks, console)
    values = table_of("", "value", texts={""})
    for name in ("retrieval_scores", "task_weights", "ranking_features"):
        for pair in getattr(response, name):
            values.add_row(Text(f"{plain(name, '')}: {pair.name}"), f"{pair.value:.4f}")
    if response.HasField("task_scores"):
        values.add_row("score", f"{response.score:.4f}")
        for field, value in response.task_scores.ListFields():
            values.add_row(f"task: {field.name}", f"{value:.4f}")
    if values.row_count:
        print_table(values, console)
    age = ""
    if response.HasField("features_age"):
        age = f"; the viewer's features changed {response.features_age.seconds} s ago"
    typer.echo(f"release {response.release_id}; {response.candidates} candidates{age}")
