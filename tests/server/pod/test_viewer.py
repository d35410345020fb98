"""What the inner hops carry of a viewer, as a pod reads it."""

from __future__ import annotations

import time

import grpc
import pytest

from vireo.server.pod.viewer import decode_viewer
from vireo.server.rpc.errors import RpcError
from vireo.v1 import viewer_pb2


def test_a_request_without_a_moment_is_for_now() -> None:
    before = int(time.time())
    known = viewer_pb2.ViewerFeatures(history_keys=[7], history_times=[800])
    assert before <= decode_viewer(known).asked_at <= time.time()
    known.asked_at = 900
    assert decode_viewer(known).asked_at == 900


@pytest.mark.parametrize("name", ["history", "hidden", "shown"])
def test_a_column_whose_times_differ_in_number_is_refused_by_name(name: str) -> None:
    viewer = viewer_pb2.ViewerFeatures()
    getattr(viewer, f"{name}_keys").extend([7, 8])
    getattr(viewer, f"{name}_times").append(800)
    with pytest.raises(RpcError, match=rf"^viewer.{name}_times: ") as refused:
        decode_viewer(viewer)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
