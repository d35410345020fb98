"""What traces add to a call that isn't sampled: processor time, measured in turns.

Run it as `python -m bench.tracing_cost`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import grpc

from server.rpc.settings import RpcSettings
from server.rpc.trace import CallTrace, begin_call, sampled_trace_id
from server.tracing import spans

_METHOD, _REQUEST_ID = "/vireo.v1.RecommendationService/Recommend", "0af76519-16cd-43dd"
_PARENT = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
_METADATA = (
    ("user-agent", "grpc-python/1.80"),
    ("x-request-id", _REQUEST_ID),
    ("grpc-timeout", "1000m"),
    ("x-vireo-timeout", "1000m"),
    ("x-vireo-caller", "127.0.0.1"),
    _PARENT,
)
_NOBODY = "http://127.0.0.1:1"
_POD_STAGES = 10


def added_microseconds(turns: int = 21, calls: int = 2000) -> dict[str, float]:
    """Return what a call of a gateway and of a pod takes longer because it could be sampled.

    Args:
        turns: how often each is measured; the median counts.
        calls: number of calls of a turn.
    """
    settings = RpcSettings(port=0, otlp_endpoint=_NOBODY, trace_slow_seconds=1e6)
    spans.start_export(settings, "bench", "bench")
    try:
        taken: dict[str, list[float]] = {"gateway": [], "pod": [], "nothing": []}
        for _ in range(turns):
            for name, call in (("gateway", _gateway), ("pod", _pod), ("nothing", _nothing)):
                taken[name].append(_microseconds(call, calls))
    finally:
        spans.end_export()
    medians = {name: statistics.median(each) for name, each in taken.items()}
    return {name: medians[name] - medians["nothing"] for name in ("gateway", "pod")}


def _microseconds(call: Callable[[], None], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        call()
    return 1e6 * (time.process_time() - began) / calls


def _nothing() -> None:
    pass


def _gateway() -> None:
    """Do what the guard and the stages of a slate do for traces."""
    trace = begin_call(_METADATA)
    spans.begin_server_span(_METHOD, trace, _REQUEST_ID)
    with spans.span("features"):
        pass
    for stage in ("retrieval", "ranking"):
        with spans.span(stage, "client"):
            spans.outgoing((_PARENT,))
    _end(trace)


def _pod() -> None:
    """Do what the guard and the stages of a pipeline do for traces."""
    trace = begin_call(_METADATA)
    spans.begin_server_span(_METHOD, trace, _REQUEST_ID)
    for _ in range(_POD_STAGES):
        spans.ended("scorer.ranker", 1e-4)
    _end(trace)


def _end(trace: CallTrace) -> None:
    sampled_trace_id()  # of the histogram's exemplar
    spans.end_server_span(_METHOD, trace, _REQUEST_ID, grpc.StatusCode.OK, 1e-3, unary=True)


if __name__ == "__main__":
    for name, microseconds in added_microseconds().items():
        print(f"{name}: {microseconds:.1f} µs a call that isn't sampled")  # noqa: T201
