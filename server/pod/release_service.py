"""ReleaseService: what this process serves, since when, and from where."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from vireo.server.releases.loader import ReleaseLoader, Serving
from vireo.server.releases.progress import Stage
from vireo.server.rpc.errors import unavailable
from vireo.v1 import release_pb2, release_pb2_grpc

T = TypeVar("T")

NAME = release_pb2.DESCRIPTOR.services_by_name["ReleaseService"].full_name
_RETRY_AFTER = timedelta(seconds=1)


class ReleaseServicer(release_pb2_grpc.ReleaseServiceServicer):
    """Serves the state of a loader."""

    def __init__(
        self,
        loader: ReleaseLoader[Any],
        pod_name: str,
        describe: Callable[[release_pb2.GetServingReleaseResponse], None] | None = None,
    ) -> None:
        """Serve the state of `loader` under this process's name; `describe` adds to responses."""
        self._loader, self._pod_name, self._describe = loader, pod_name, describe

    async def GetServingRelease(  # noqa: N802
        self, _: release_pb2.GetServingReleaseRequest, _context: Any
    ) -> release_pb2.GetServingReleaseResponse:
        """Return the state of the release on this process."""
        loader = self._loader
        response = release_pb2.GetServingReleaseResponse(
            state=release_pb2.RELEASE_STATE_LOADING,
            channel=loader.channel,
            last_failure=loader.failures.reason,
            pod=self._pod_name,
        )
        if (serving := loader.serving) is not None:
            response.state = release_pb2.RELEASE_STATE_SERVING
            response.release_id = serving.release_id
            response.origin = serving.origin
            response.serving_since.FromDatetime(serving.since)
        if (previous := loader.previous) is not None:
            response.previous_release_id = previous.release_id
        if (progress := loader.progress).stage is not Stage.SERVING:
            response.loading.release_id = progress.release_id
            response.loading.stage = _stage(progress.stage)
            response.loading.bytes_done = progress.bytes_done
            response.loading.bytes_total = progress.bytes_total
        if (failure := loader.failures.latest) is not None:
            response.latest_failure.reason = failure.reason
            response.latest_failure.stage = _stage(failure.stage)
            response.latest_failure.release_id = failure.release_id
            response.latest_failure.time.FromDatetime(failure.at)
        if self._describe is not None:
            self._describe(response)
        return response


def _stage(stage: Stage) -> release_pb2.LoadStage.ValueType:
    return release_pb2.LoadStage.Value(f"LOAD_STAGE_{stage.name}")


def served(loader: ReleaseLoader[T], pinned_id: str = "") -> Serving[T]:
    """Return the release that a call is answered from, for the call to keep.

    Args:
        loader: the loader of this process.
        pinned_id: the release that the caller prefers, empty for none: it is returned while it
            is held, else the one that is served.

    Raises:
        RpcError: UNAVAILABLE while nothing is loaded.
    """
    pinned = loader.find(pinned_id) if pinned_id else None
    if pinned is not None:
        return pinned
    if loader.serving is None:
        reason = loader.failures.reason or "it is being loaded"
        raise unavailable(f"no release is loaded yet: {reason}", _RETRY_AFTER)
    return loader.serving
