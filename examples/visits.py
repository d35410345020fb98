"""Visit the demo as some hundred viewers: see slates, play some of what is seen, and say so.

PYTHONPATH=clients/python python examples/visits.py 127.0.0.1:8080 600
"""

from __future__ import annotations

import random
import sys

from vireo_client import Client, Event, EventKind

VIEWERS = 943
"""Those of MovieLens-100K are called 1 to 943."""


def visit(site: Client, viewer: str, draw: random.Random) -> int:
    """Look through a viewer's slate from its top, and return the number of plays."""
    slate, seen = site.recommend(viewer, page_size=10), list[Event]()
    for item in slate:
        if draw.random() < 0.08 * item.position:  # the next one is below the screen
            break
        where = {"request_id": slate.request_id, "position": item.position}
        seen.append(Event.impression(viewer, item.video_id, **where))
        if draw.random() < 0.2:
            seen.append(Event.play(viewer, item.video_id, watched_fraction=0.9, **where))
    if seen:
        site.record_events(seen)
    return sum(event.kind == EventKind.PLAY for event in seen)


def main(edge: str, visits: int) -> None:
    """Make some visits to the site at host:port, one after the other."""
    draw = random.Random(0)  # noqa: S311
    with Client(edge, timeout=5) as site:
        viewers = (str(draw.randrange(1, VIEWERS + 1)) for _ in range(visits))
        plays = sum(visit(site, viewer, draw) for viewer in viewers)
    print(f"{visits} visits, {plays} plays")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
