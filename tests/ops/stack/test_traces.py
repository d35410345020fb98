"""One slate's trace, and one event's, through a whole stack."""

from __future__ import annotations

import grpc

from tests.builders.secured_stack import SECONDS
from tests.builders.stack import Stack
from tests.builders.tiny_home import VIEWER
from tests.otlp_sink import OtlpSink, check_event_trace, check_slate_trace, sampled
from vireo.v1 import event_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.event_pb2_grpc import EventServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub


def test_one_slates_trace_has_every_hop_below_its_caller(
    tiny_stack: Stack, otlp_sink: OtlpSink
) -> None:
    trace_id, metadata = sampled()
    with grpc.insecure_channel(tiny_stack.edge) as channel:
        slate = RecommendationServiceStub(channel).Recommend(
            pb.RecommendRequest(viewer_id=VIEWER, page_size=10), timeout=SECONDS, metadata=metadata
        )
    assert not slate.degradations, "all hops work"
    check_slate_trace(otlp_sink, trace_id)


def test_one_events_trace_goes_on_in_the_consumer(tiny_stack: Stack, otlp_sink: OtlpSink) -> None:
    trace_id, metadata = sampled()
    event = event_pb2.Event(
        kind=event_pb2.EVENT_KIND_IMPRESSION, viewer_id="traced", video_id="video-1", event_id="t"
    )
    with grpc.insecure_channel(tiny_stack.edge) as channel:
        EventServiceStub(channel).RecordEvents(
            event_pb2.RecordEventsRequest(events=[event]), timeout=SECONDS, metadata=metadata
        )
    check_event_trace(otlp_sink, trace_id)
