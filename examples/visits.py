"""Visit the demo as some hundred viewers: see slates, play some of what is seen, and say so.

python examples/visits.py 600
"""

from __future__ import annotations

import random
import sys

from vireo_client import Client, Event
from vireo_client.inputs import EventDetails

VIEWERS = 943
"""Those of MovieLens-100K are called 1 to 943."""


def visit(client: Client, viewer: str, draw: random.Random) -> int:
    """Look through a viewer's slate from its top, and return the number of plays."""
    slate, events, plays = client.recommend(viewer, page_size=10), list[Event](), 0
    for item in slate:
        if draw.random() < 0.08 * item.position:  # the next one is below the screen
            break
        where = EventDetails(request_id=slate.request_id, position=item.position)
        events.append(Event.impression(viewer, item.video_id, **where))
        if draw.random() < 0.2:
            events.append(Event.play(viewer, item.video_id, watched_fraction=0.9, **where))
            plays += 1
    if events:
        client.record_events(events)
    return plays


def main(visits: int) -> None:
    """Make some visits, one after the other."""
    draw, plays = random.Random(0), 0  # noqa: S311
    with Client("127.0.0.1:8080") as client:
        for _ in range(visits):
            plays += visit(client, str(draw.randrange(1, VIEWERS + 1)), draw)
    print(f"{visits} visits, {plays} plays")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
