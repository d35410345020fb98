"""ReleaseService: what this process serves, since when, and from where."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

from vireo.v1 import release_pb2, release_pb2_grpc

from server.releases.loader import ReleaseLoader, Serving
from server.rpc.errors import unavailable

T = TypeVar("T")

NAME = release_pb2.DESCRIPTOR.services_by_name["ReleaseService"].full_name
_RETRY_AFTER = timedelta(seconds=1)


class ReleaseServicer(release_pb2_grpc.ReleaseServiceServicer):
    """Answers from a loader."""

    def __init__(self, loader: ReleaseLoader[Any], pod_name: str) -> None:
        """Takes the loader and the name of this process."""
        self._loader = loader
        self._pod_name = pod_name

    async def GetServingRelease(  # noqa: N802
        self,
        request: release_pb2.GetServingReleaseRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> release_pb2.GetServingReleaseResponse:
        """The state of the release on this process."""
        serving = self._loader.serving
        response = release_pb2.GetServingReleaseResponse(
            state=release_pb2.RELEASE_STATE_LOADING,
            channel=self._loader.channel,
            last_failure=self._loader.last_failure,
            pod=self._pod_name,
        )
        if serving is not None:
            response.state = release_pb2.RELEASE_STATE_SERVING
            response.release_id = serving.release_id
            response.origin = serving.origin
            response.serving_since.FromDatetime(serving.since)
        return response


def served(loader: ReleaseLoader[T]) -> Serving[T]:
    """What is served now, for one call to keep to.

    Raises:
        RpcError: UNAVAILABLE while nothing is loaded.
    """
    if loader.serving is None:
        reason = loader.last_failure or "it is being loaded"
        raise unavailable(f"no release is loaded yet: {reason}", _RETRY_AFTER)
    return loader.serving
