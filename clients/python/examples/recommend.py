"""Request pages of a slate from a Vireo stack and print each as JSON.

It may record an event before, and ask for videos of one tag alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from itertools import islice

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
    VireoError,
)


@dataclass(frozen=True)
class Options:
    """Options from the command line and the environment."""

    address: str
    viewer: str
    page_size: int
    timeout: float
    authority: str | None
    token: str | None
    played: str
    tag: str
    pages: int


def options() -> Options:
    """Return the options; exit with 2 if they are invalid."""
    parser = argparse.ArgumentParser(prog="recommend", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("viewer", metavar="VIEWER")
    parser.add_argument(
        "--page-size", type=int, default=10, help="maximum number of videos, 1 to 500"
    )
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds, including retries")
    parser.add_argument(
        "--tls-ca",
        metavar="FILE",
        help="use TLS and trust the authorities in this PEM file (or VIREO_CA)",
    )
    parser.add_argument("--token", help="bearer token; needs TLS (or VIREO_TOKEN)")
    parser.add_argument(
        "--played",
        metavar="VIDEO",
        default="",
        help="record that this was played, first",
    )
    parser.add_argument("--tag", default="", help="only videos with this tag")
    parser.add_argument("--pages", type=int, default=1, help="number of pages to print")
    given = parser.parse_args()
    return Options(
        address=given.address,
        viewer=given.viewer,
        page_size=given.page_size,
        timeout=given.timeout,
        authority=given.tls_ca or os.environ.get("VIREO_CA") or None,
        token=given.token or os.environ.get("VIREO_TOKEN") or None,
        played=given.played,
        tag=given.tag,
        pages=given.pages,
    )


def client(asked: Options) -> Client:
    """Return a client; exit with 2 if an option is invalid."""
    try:
        tls = Tls.from_files(asked.authority) if asked.authority else None
        return Client(asked.address, tls=tls, token=asked.token, timeout=asked.timeout)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from error


def document(slate: Slate) -> str:
    """Return the slate as one line of JSON."""
    return json.dumps(
        {
            "release_id": slate.release_id,
            "degradations": [f"DEGRADATION_{each.name}" for each in slate.degradations],
            "items": [
                {"video_id": item.video_id, "position": item.position, "score": item.score}
                for item in slate.items
            ],
        }
    )


def explanation(error: VireoError) -> str:
    """Return code and message, then each invalid field, or the delay before a retry."""
    lines = [f"{error.code.name}: {error.message}"]
    if isinstance(error, InvalidRequest):
        lines += [f"  {each.field}: {each.description}" for each in error.violations]
    elif isinstance(error, Overloaded | Unavailable) and error.retry_after is not None:
        lines.append(f"  retry after {int(error.retry_after.total_seconds() * 1000)} ms")
    return "\n".join(lines)


def main() -> None:
    """Make a call for the event, and one for each page."""
    asked = options()
    # A server creates one client and reuses it.
    with client(asked) as asking:
        try:
            if asked.played:
                asking.record_events([Event.finish(asked.viewer, asked.played)])
            tagged = Filter([Condition("tag", any_of=[asked.tag])]) if asked.tag else None
            pages = asking.pages(asked.viewer, page_size=asked.page_size, filter=tagged)
            for slate in islice(pages, asked.pages):
                sys.stdout.write(f"{document(slate)}\n")
        except VireoError as error:
            sys.stderr.write(f"{explanation(error)}\n")
            raise SystemExit(1) from error


if __name__ == "__main__":
    main()
