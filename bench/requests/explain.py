"""What an explanation costs: `ExplainVideo` in turns with the slate that it explains."""

from __future__ import annotations

import random
import time
from itertools import cycle, islice

import grpc.aio
import numpy as np

from bench.live.stack import LiveStack
from bench.requests.plan import RequestsPlan
from bench.speed.row import Row
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import recommendation_pb2_grpc

MAX_RATIO = 3.0
_ROUNDS = 5
_CALL_SECONDS = 10.0


async def measure_explain(live: LiveStack, plan: RequestsPlan) -> list[Row]:
    """Measure the median of explanations of random videos over that of slates."""
    draw, videos = random.Random(1), live.videos  # noqa: S311
    ratios = []
    async with grpc.aio.insecure_channel(live.edge) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        for _ in range(_ROUNDS):
            slates, explained = list[float](), list[float]()
            for viewer in islice(cycle(live.viewers), max(1, plan.viewers // _ROUNDS)):
                request = pb.RecommendRequest(viewer_id=viewer, page_size=10)
                begun = time.perf_counter()
                await stub.Recommend(request, timeout=_CALL_SECONDS)
                slates.append(time.perf_counter() - begun)
                asked = pb.ExplainVideoRequest(request=request, video_id=draw.choice(videos))
                begun = time.perf_counter()
                await stub.ExplainVideo(asked, timeout=_CALL_SECONDS)
                explained.append(time.perf_counter() - begun)
            ratios.append(float(np.median(explained) / np.median(slates)))
    bound = MAX_RATIO if plan.timed else None
    return [Row.over_rounds("explanations over slates, p50", ratios, bound)]
