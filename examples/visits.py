"""Visit the demo as some hundred viewers: see slates, play some of what is seen, and say so.

python examples/visits.py 127.0.0.1:8080 600
"""

from __future__ import annotations

import random
import sys
import uuid
from typing import Any

import grpc

from vireo.v1 import event_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.event_pb2_grpc import EventServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

VIEWERS = 943
"""Those of MovieLens-100K are called 1 to 943."""


def visit(slates: Any, events: Any, viewer: str, draw: random.Random) -> int:
    """Look through a viewer's slate from its top, and return the number of plays."""
    slate = slates.Recommend(pb.RecommendRequest(viewer_id=viewer, page_size=10), timeout=5)
    seen = list[event_pb2.Event]()
    for item in slate.items:
        if draw.random() < 0.08 * item.position:  # the next one is below the screen
            break
        kinds = [event_pb2.EVENT_KIND_IMPRESSION]
        if draw.random() < 0.2:
            kinds.append(event_pb2.EVENT_KIND_PLAY)
        for kind in kinds:
            event = event_pb2.Event(
                event_id=uuid.uuid4().hex,
                viewer_id=viewer,
                kind=kind,
                video_id=item.video_id,
                request_id=slate.request_id,
                position=item.position,
            )
            if kind == event_pb2.EVENT_KIND_PLAY:
                event.watched_fraction = 0.9
            seen.append(event)
    if seen:
        events.RecordEvents(event_pb2.RecordEventsRequest(events=seen), timeout=5)
    return sum(event.kind == event_pb2.EVENT_KIND_PLAY for event in seen)


def main(edge: str, visits: int) -> None:
    """Make some visits to the site at host:port, one after the other."""
    draw, plays = random.Random(0), 0  # noqa: S311
    with grpc.insecure_channel(edge) as channel:
        slates, events = RecommendationServiceStub(channel), EventServiceStub(channel)
        for _ in range(visits):
            plays += visit(slates, events, str(draw.randrange(1, VIEWERS + 1)), draw)
    print(f"{visits} visits, {plays} plays")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
