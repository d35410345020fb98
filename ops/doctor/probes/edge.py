"""The edge: asks for a slate, as a viewer's app does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import cast

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Facts, Fault, Part, Slate
from vireo.ops.doctor.reach import reach, words

_VIEWER = "vireo-doctor"
_VIDEOS = 10


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of the edge that is named."""
    if deployment.edge:
        yield Probe("the edge", partial(_ask, deployment))
    else:
        yield Probe.unnamed("the edge", "name it with --edge")


def _ask(deployment: Deployment) -> Facts:
    import grpc

    from vireo.v1 import recommendation_pb2 as pb
    from vireo.v1 import viewer_pb2
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

    edge = deployment.edge
    assert edge is not None
    request = pb.RecommendRequest(viewer_id=_VIEWER, page_size=_VIDEOS)
    with edge.channel() as channel:
        began = time.monotonic()
        try:
            slate = RecommendationServiceStub(channel).Recommend(request, timeout=deployment.answer)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                return Facts(parts=(Part("edge", edge.target),))  # it sheds, which counts tell
            fault, problem = _fault(call, edge.target)
            return Facts(parts=(Part("edge", edge.target, fault, problem),))
        took = time.monotonic() - began
    kinds = [viewer_pb2.Degradation.Name(each) for each in slate.degradations]
    degradations = tuple(each.removeprefix("DEGRADATION_").lower() for each in kinds)
    return Facts(
        parts=(Part("edge", edge.target),), slates=(Slate(took, degradations, slate.release_id),)
    )


def _fault(call: object, target: str) -> tuple[Fault, str]:
    import grpc

    error = cast("grpc.Call", call)
    if fault := reach(target):
        return fault, words(fault)
    silent = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    return ("silent" if silent else "failed"), f"{error.code().name}: {error.details()}"
