from __future__ import annotations

import pytest

from vireo.server.rpc.trace import trace_context

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_goes_along_as_it_is() -> None:
    metadata = [("x-other", "1"), ("tracestate", "a=1"), ("traceparent", PARENT)]
    assert trace_context(metadata) == (("traceparent", PARENT), ("tracestate", "a=1"))
    assert trace_context([("traceparent", PARENT)]) == (("traceparent", PARENT),)


@pytest.mark.parametrize("parent", ["", "00", PARENT.upper(), PARENT + "x", "x" * 10_000])
def test_an_invalid_parent_ends_the_trace(parent: str) -> None:
    assert trace_context([("traceparent", parent), ("tracestate", "a=1")]) == ()


def test_values_that_are_too_long_are_left_out() -> None:
    metadata = [("traceparent", PARENT), ("tracestate", "a=" + "1" * 511)]
    assert trace_context(metadata) == (("traceparent", PARENT),)


def test_no_trace_stays_no_trace() -> None:
    assert trace_context([("tracestate", "a=1"), ("traceparent-bin", b"\0")]) == ()
    assert trace_context(None) == ()
