"""What each pod of a running stack serves, by its ReleaseService."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from vireo.ops.cli.edge import operator_tls

if TYPE_CHECKING:
    from vireo.ops.stack.state import ProcessState, StackState
    from vireo.v1.release_pb2 import GetServingReleaseResponse

_SECONDS = 2.0
_CONCURRENT = 16
"""Maximum number of pods queried concurrently."""
_PODS = ("candidate", "ranking", "gateway")


def serving_releases(state: StackState) -> dict[str, GetServingReleaseResponse | None]:
    """Return the response of each pod of a stack by name; None if it doesn't answer."""
    import grpc

    from vireo.server.rpc.tls import open_blocking_channel
    from vireo.v1.release_pb2 import GetServingReleaseRequest
    from vireo.v1.release_pb2_grpc import ReleaseServiceStub

    tls = operator_tls(state)

    def ask(pod: ProcessState) -> GetServingReleaseResponse | None:
        role = pod.name.partition("-")[0]
        with open_blocking_channel(f"127.0.0.1:{pod.port}", tls, role) as channel:
            try:
                return ReleaseServiceStub(channel).GetServingRelease(
                    GetServingReleaseRequest(), timeout=_SECONDS
                )
            except grpc.RpcError:
                return None

    pods = [each for each in state.processes if each.name.startswith(_PODS)]
    # Concurrent: a pod that hangs uses up its whole deadline.
    with ThreadPoolExecutor(_CONCURRENT) as threads:
        return dict(zip([pod.name for pod in pods], threads.map(ask, pods), strict=True))
