"""What the inner hops carry of a viewer, as a pod reads it."""

from __future__ import annotations

import time

from vireo.v1 import viewer_pb2

from server.pod.viewer import decode_viewer


def test_a_request_without_a_moment_is_for_now() -> None:
    before = int(time.time())
    known = viewer_pb2.ViewerFeatures(history_keys=[7], history_times=[800])
    assert before <= decode_viewer(known).asked_at <= time.time()
    known.asked_at = 900
    assert decode_viewer(known).asked_at == 900
