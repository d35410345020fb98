"""Request slates from a Vireo stack and print each as JSON.

It may record an event and change the catalogue before, and ask for videos of one tag alone. It also
asks for the videos like one, and why a video is on a page or isn't.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from vireo_client import (
    Client,
    Condition,
    Event,
    Filter,
    InvalidRequest,
    Overloaded,
    Slate,
    Tls,
    Unavailable,
    Video,
    VideoExplanation,
    VireoError,
)


def options() -> argparse.Namespace:
    """Return the options; exit with 2 if they are invalid."""
    parser = argparse.ArgumentParser(prog="recommend", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("viewers", metavar="VIEWER", nargs="*")
    parser.add_argument(
        "--page-size", type=int, default=10, help="maximum number of videos, 1 to 500"
    )
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds, retries included")
    parser.add_argument(
        "--tls-ca",
        metavar="FILE",
        default=os.environ.get("VIREO_CA"),
        help="use TLS and trust the authorities in this PEM file (or VIREO_CA)",
    )
    token = os.environ.get("VIREO_TOKEN") or None
    parser.add_argument("--token", default=token, help="bearer token; needs TLS (or VIREO_TOKEN)")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file of the token, read for every call"
    )
    for name, said in (
        ("--played", "record that this was played, first"),
        ("--upsert", "add this to the catalogue, first"),
        ("--remove", "remove this from the catalogue, first"),
        ("--similar", "print the videos like this, for no viewer"),
        ("--why", "print why this is on the page, or isn't"),
    ):
        parser.add_argument(name, metavar="VIDEO", default="", help=said)
    parser.add_argument("--tag", default="", help="only videos with this tag")
    parser.add_argument("--pages", type=int, default=1, help="number of pages to print")
    given = parser.parse_args()
    if bool(given.similar) == bool(given.viewers):
        parser.error("a viewer or --similar is needed, and not both")
    if len(given.viewers) != 1 and (given.why or given.played or given.pages != 1):
        parser.error("--why, --played and --pages are of one viewer")
    return given


def client(asked: argparse.Namespace) -> Client:
    """Return a client; exit with 2 if an option is invalid."""
    try:
        tls = Tls.from_files(asked.tls_ca) if asked.tls_ca else None
        file: Path | None = asked.token_file
        token = (lambda: file.read_text().strip()) if file else asked.token
        return Client(asked.address, tls=tls, token=token, timeout=asked.timeout)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def documents(asking: Client, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what is asked for, as it comes."""
    tagged = Filter([Condition("tag", any_of=[asked.tag])]) if asked.tag else None
    if asked.similar:
        alike = asking.similar(asked.similar, page_size=asked.page_size, filter=tagged)
        yield slate_document(alike)
        return
    viewer, *more = asked.viewers
    if asked.why:
        told = asking.explain_video(asked.why, viewer, page_size=asked.page_size, filter=tagged)
        yield explanation_document(asked.why, told)
    elif more:
        slates = asking.batch(
            asked.viewers, page_size=asked.page_size, filter=tagged, patience=asked.timeout
        )
        for viewer_id, slate in slates:
            yield {"viewerId": viewer_id, **slate_document(slate)}
    else:
        pages = asking.pages(viewer, page_size=asked.page_size, filter=tagged)
        for slate in islice(pages, asked.pages):
            yield slate_document(slate)


def slate_document(slate: Slate) -> dict[str, Any]:
    """Return what is printed of a slate."""
    return {
        "releaseId": slate.release_id,
        "degradations": [f"DEGRADATION_{each.name}" for each in slate.degradations],
        "items": [
            {"videoId": item.video_id, "position": item.position, "score": item.score}
            for item in slate.items
        ],
    }


def explanation_document(video_id: str, told: VideoExplanation) -> dict[str, Any]:
    """Return what is printed of an explanation; `lostAt` is absent if the video is on the page."""
    return {
        "releaseId": told.release_id,
        "degradations": [f"DEGRADATION_{each.name}" for each in told.degradations],
        "videoId": video_id,
        **({"lostAt": f"LOST_AT_{told.lost_at.name}"} if told.lost_at else {}),
        "reason": told.reason,
        "position": told.position,
        "score": told.score,
    }


def explanation(error: VireoError) -> str:
    """Return code and message, then each invalid field, or the delay before a retry."""
    lines = [f"{error.code.name}: {error.message}"]
    if isinstance(error, InvalidRequest):
        lines += [f"  {each.field}: {each.description}" for each in error.violations]
    elif isinstance(error, Overloaded | Unavailable) and error.retry_after is not None:
        lines.append(f"  retry after {int(error.retry_after.total_seconds() * 1000)} ms")
    return "\n".join(lines)


def main() -> None:
    """Change the catalogue and record the event, if asked to, and print what is asked for."""
    asked = options()
    # A server creates one client and reuses it.
    with client(asked) as asking:
        try:
            if asked.upsert:
                asking.upsert_videos([Video(asked.upsert, asked.upsert)])
            if asked.remove:
                asking.remove_videos([asked.remove])
            if asked.played:
                asking.record_events([Event.finish(asked.viewers[0], asked.played)])
            for document in documents(asking, asked):
                sys.stdout.write(f"{json.dumps(document)}\n")
        except VireoError as error:
            sys.stderr.write(f"{explanation(error)}\n")
            raise SystemExit(1) from error


if __name__ == "__main__":
    main()
