"""`vireo recommend --all`: the slates of many viewers, into a Parquet file."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import grpc
import typer
from google.rpc import error_details_pb2

from vireo.ops.cli.options import chosen_dataset
from vireo.ops.cli.output import print_json, progress_bar, words
from vireo.ops.edge import Edge, unpack_detail
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

MAX_VIEWERS = 10_000
"""Maximum viewers of one call of BatchRecommend."""
_CALL_SECONDS = 320.0
"""Deadline of one call: more than the 300 s after which a gateway ends a batch."""
_PATIENCE_SECONDS = 120.0
"""Maximum seconds without any slate."""
_FIRST_PAUSE, _MAX_PAUSE = 0.1, 5.0
"""Seconds before the first and before later calls that continue one that failed."""
_ROW_GROUP = 5_000
"""Viewers of a row group."""
_RESUMED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # What becomes of a stream whose gateway is killed.
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)
"""Statuses of calls that are continued by another one."""

AllOption = Annotated[
    bool,
    typer.Option("--all", help="Slates of all viewers of a data set instead, into --out."),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Parquet file to write, with a row a viewer.", dir_okay=False)
]


def recommend_all(
    viewers: Sequence[str],
    request: pb.BatchRecommendRequest,
    edge: Edge,
    out: Path,
    *,
    as_json: bool = False,
) -> None:
    """Write a row for each viewer to `out`, which is there only once it is whole.

    Args:
        viewers: their ids.
        request: what to ask for each.
        edge: where.
        out: the Parquet file.
        as_json: whether to print what was written as JSON.

    Raises:
        VireoError: a call failed, and repeating it didn't help; or `out` has no folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not out.parent.is_dir():
        raise VireoError(f"{out.parent} is no folder; make it, or name another file with --out")
    texts = pa.list_(pa.string())
    schema = pa.schema(
        {
            "viewer_id": pa.string(),
            "video_ids": texts,
            "scores": pa.list_(pa.float32()),
            "release_id": pa.string(),
            "degradations": texts,
        }
    )
    degraded = Counter[str]()
    unmet = 0
    began = time.monotonic()
    partial = out.with_name(f".{out.name}.partial")
    try:
        with (
            progress_bar("viewers", len(viewers)) as show,
            pq.ParquetWriter(partial, schema) as writer,
        ):
            rows: list[dict[str, Any]] = []
            for done, response in enumerate(batched(viewers, request, edge), start=1):
                rows.append(_row(response))
                degraded.update(rows[-1]["degradations"])
                unmet += response.slate.filter_unmet
                show(done, len(viewers))
                if len(rows) == _ROW_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows.clear()
            writer.write_table(pa.Table.from_pylist(rows, schema))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    seconds = time.monotonic() - began
    if as_json:
        counts = {"viewers": len(viewers), "filterUnmet": unmet, "degradations": dict(degraded)}
        print_json({"out": out, **counts})
        return
    typer.echo(f"wrote the slates of {len(viewers):,} viewers to {out} in {seconds:.1f} s")
    if unmet:
        typer.echo(f"no video meets the filter and the site's rules: {unmet:,} empty slates")
    for kind, count in degraded.most_common():
        typer.echo(f"degraded: {kind.replace('_', ' ')}, {count:,} slates")


def batched(
    viewers: Sequence[str], request: pb.BatchRecommendRequest, edge: Edge
) -> Iterator[pb.BatchRecommendResponse]:
    """Yield the response for each viewer, in their order; `request` is changed.

    A call that ends early is continued on another gateway.

    Raises:
        VireoError: a call failed for good, or without any slate for two minutes.
    """
    with edge.channel() as channel:
        call = RecommendationServiceStub(channel).BatchRecommend
        for begin in range(0, len(viewers), MAX_VIEWERS):
            request.viewer_ids[:] = viewers[begin : begin + MAX_VIEWERS]
            request.resume_token = ""
            pause, ends = _FIRST_PAUSE, time.monotonic() + _PATIENCE_SECONDS
            while True:
                try:
                    for response in call(request, timeout=_CALL_SECONDS):
                        yield response
                        request.resume_token = response.resume_token
                        pause, ends = _FIRST_PAUSE, time.monotonic() + _PATIENCE_SECONDS
                except grpc.RpcError as error:
                    pause = max(pause, _retry_delay(error))
                    resumed = cast("grpc.Call", error).code() in _RESUMED
                    if not resumed or time.monotonic() + pause > ends:
                        raise edge.failure(error, "vireo.batch") from error
                else:
                    break
                time.sleep(pause * random.uniform(1.0, 1.2))  # noqa: S311
                pause = min(2 * pause, _MAX_PAUSE)


def viewers_of(dataset: str) -> list[str]:
    """Return the ids of a data set's viewers, each once; raise VireoError if it can't be read."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from vireo.training.data.dataset import load_dataset

    home = Home.current()
    folder = load_dataset(home, dataset).folder
    found: dict[str, None] = {}
    for table in ("interactions", "viewers"):
        path = folder / f"{table}.parquet"
        try:
            column = pq.read_table(path, columns=["viewer_id"], read_dictionary=["viewer_id"])
        except (OSError, ValueError) as error:
            raise VireoError(f"cannot read {path}: {error}") from error
        found.update(dict.fromkeys(map(str, pc.unique(column["viewer_id"]).to_pylist())))
    return list(found)


def chosen_viewers(dataset: str, path: Path | None) -> list[str]:
    """Return the ids in a file, one a line, or those of a data set without a file; each once.

    Raises:
        VireoError: the file can't be read or has none; or as `viewers_of`.
    """
    if path is None:
        return viewers_of(chosen_dataset(dataset))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VireoError(f"cannot read {path}: {error}; it has an id a line, in UTF-8") from error
    found = list(dict.fromkeys(filter(None, lines)))
    if not found:
        raise VireoError(f"{path} has no ids; write one a line")
    return found


def _row(response: pb.BatchRecommendResponse) -> dict[str, Any]:
    slate = response.slate
    kinds = (words(viewer_pb2.Degradation, each) for each in slate.degradations)
    return {
        "viewer_id": response.viewer_id,
        "video_ids": [item.video_id for item in slate.items],
        "scores": [item.score for item in slate.items],
        "release_id": slate.release_id,
        "degradations": [each.replace(" ", "_") for each in kinds],
    }


def _retry_delay(error: grpc.RpcError) -> float:
    """Return the seconds after which the server wants to be called again; 0 if it doesn't say."""
    retry = error_details_pb2.RetryInfo()
    unpack_detail(error, retry)
    return float(retry.retry_delay.ToTimedelta().total_seconds())
