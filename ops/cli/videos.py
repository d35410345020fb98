"""`vireo videos`: change the catalogue that is served, between two trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vireo.ops.cli.json_lines import in_batches, messages_in
from vireo.ops.cli.options import CaOption, JsonOption, TargetOption, TokenOption
from vireo.ops.cli.output import print_result, remark
from vireo.ops.edge import edge_of
from vireo.v1 import catalog_pb2 as pb
from vireo.v1.catalog_pb2_grpc import CatalogServiceStub

app = typer.Typer(no_args_is_help=True)

_BATCH = 500
_SECONDS = 10.0
"""Deadline of a call."""


@app.command()
def upsert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Videos as JSON, one a line; - for input.")
    ],
    restore: Annotated[
        bool, typer.Option("--restore", help="Also restore removed videos.")
    ] = False,
    as_json: JsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Add videos, or replace them: slates may have them within seconds.

    A line is a video as REST takes it, for example
    {"videoId": "v1", "title": "A title", "tags": ["Comedy"], "duration": 90}.

    vireo videos upsert videos.jsonl
    """
    videos, still_removed = messages_in(file, pb.Video), 0
    with edge_of(target, ca, token).calls(CatalogServiceStub, "vireo.catalog") as service:
        for some in in_batches(videos, "videos", _BATCH):
            request = pb.UpsertVideosRequest(videos=some, restore=restore)
            still_removed += service.UpsertVideos(request, timeout=_SECONDS).still_removed
    if still_removed:
        remark(f"{still_removed:,} of them stay taken down; show them again with --restore")
    document = {"upserted": len(videos), "stillRemoved": still_removed}
    print_result(document, f"upserted {len(videos):,} videos", as_json)


@app.command()
def remove(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO", help="Your ids of the videos.")],
    as_json: JsonOption = False,
    target: TargetOption = "",
    ca: CaOption = None,
    token: TokenOption = "",
) -> None:
    """Take videos down: no slate has them from now on; `upsert --restore` brings them back.

    vireo videos remove v1 v2
    """
    with edge_of(target, ca, token).calls(CatalogServiceStub, "vireo.catalog") as service:
        for some in in_batches(videos, "videos", _BATCH):
            service.RemoveVideos(pb.RemoveVideosRequest(video_ids=some), timeout=_SECONDS)
    print_result({"removed": len(videos)}, f"videos taken down: {len(videos):,}", as_json)
