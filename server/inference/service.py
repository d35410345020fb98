"""inference.GRPCInferenceService: runs a release's model for Triton's and KServe's clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from inference import open_inference_pb2 as pb
from inference import open_inference_pb2_grpc

from server.inference.model import Model, ModelInputError, ModelOutputError
from server.inference.tensors import Limits, metadata, read_inputs, write_output
from server.pipeline.caller import Caller
from server.releases.loader import ReleaseLoader
from server.rpc.admission import Admission
from server.rpc.errors import RpcError, invalid_argument, not_found
from server.rpc.release_service import served
from server.rpc.server import RpcServer
from server.rpc.worker import Worker

T = TypeVar("T")

NAME = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MOST_BATCH = 32
"""Viewers in one request."""
_PLATFORM = "onnxruntime_onnx"
_RELEASE_PARAMETER = "release_id"


@dataclass(frozen=True)
class ServedModel:
    """A model that callers may run, and how much at a time."""

    model: Model
    limits: Limits

    def infer(self, request: pb.ModelInferRequest, release_id: str) -> pb.ModelInferResponse:
        """What the model gives for a request.

        Raises:
            RpcError: INVALID_ARGUMENT where an input doesn't fit, FAILED_PRECONDITION where what
                comes out isn't finite.
        """
        inputs = read_inputs(request, self.model, self.limits)
        try:
            values = self.model.run(inputs)
        except ModelInputError as error:
            raise invalid_argument([("inputs", str(error))]) from error
        except ModelOutputError as error:
            # Neither the inputs alone are to blame, which are finite and fit, nor the server,
            # whose model gave its golden outputs. UNAVAILABLE would have it asked in vain again.
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{error} for these inputs; it would again as long as release {release_id} serves",
            ) from error
        response = pb.ModelInferResponse(
            model_name=self.model.name, model_version=self.model.version, id=request.id
        )
        response.parameters[_RELEASE_PARAMETER].string_param = release_id
        write_output(response, self.model.output, values, raw=bool(request.raw_input_contents))
        return response


class InferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer, Generic[T]):
    """Answers from the release that the loader serves."""

    def __init__(
        self,
        loader: ReleaseLoader[T],
        worker: Worker,
        admission: Admission,
        model_of: Callable[[T], ServedModel],
        ready: Callable[[], bool],
    ) -> None:
        """Make a servicer.

        Args:
            loader: of the pod's releases.
            worker: on which models run.
            admission: decides which runs of a model to take on.
            model_of: returns the model of a release's content.
            ready: whether the pod is SERVING.
        """
        self._loader = loader
        self._admission = admission
        self._worker = worker
        self._model_of = model_of
        self._ready = ready

    async def ServerLive(  # noqa: N802
        self,
        request: pb.ServerLiveRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.ServerLiveResponse:
        """Always true: it has answered."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self,
        request: pb.ServerReadyRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.ServerReadyResponse:
        """As the health service has it."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(  # noqa: N802
        self,
        request: pb.ModelReadyRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.ModelReadyResponse:
        """False for a model that isn't here, as Triton answers it."""
        if not self._ready():
            return pb.ModelReadyResponse(ready=False)
        try:
            self._find(request.name, request.version)
        except RpcError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(  # noqa: N802
        self,
        request: pb.ServerMetadataRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.ServerMetadataResponse:
        """Name and version of Vireo."""
        return pb.ServerMetadataResponse(name="vireo", version=version("vireo"))

    async def ModelMetadata(  # noqa: N802
        self,
        request: pb.ModelMetadataRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.ModelMetadataResponse:
        """The model's inputs and output."""
        model = self._find(request.name, request.version)[0].model
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[model.version],
            platform=_PLATFORM,
            inputs=[metadata(name, tensor) for name, tensor in model.inputs.items()],
            outputs=[metadata(model.output, model.answer)],
        )

    async def ModelInfer(  # noqa: N802
        self,
        request: pb.ModelInferRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.ModelInferResponse:
        """One run of the model, in the pod's worker."""
        model, release_id = self._find(request.model_name, request.model_version)
        left = context.time_remaining()
        self._admission.check(context.invocation_metadata() or (), left)
        began = await self._admission.enter()
        try:
            return await self._worker.run(lambda: model.infer(request, release_id), Caller(left))
        finally:
            self._admission.leave(began, None)

    def _find(self, name: str, model_version: str) -> tuple[ServedModel, str]:
        """The model of this name and version, empty for any, and the release that it is of.

        Raises:
            RpcError: NOT_FOUND for another one, UNAVAILABLE while no release is loaded.
        """
        serving = served(self._loader)
        found = self._model_of(serving.content)
        model = found.model
        if name != model.name:
            raise not_found(f"there is no model {name!a} here, only {model.name!r}")
        if model_version not in ("", model.version):
            raise not_found(
                f"there is no version {model_version!a} of {name}, only {model.version!r}"
            )
        return found, serving.release_id


def add_inference_service(
    server: RpcServer,
    loader: ReleaseLoader[T],
    worker: Worker,
    admission: Admission,
    model_of: Callable[[T], ServedModel],
) -> None:
    """Add the service to a pod's server; ready while that is SERVING."""
    servicer = InferenceServicer(loader, worker, admission, model_of, lambda: server.serving)
    server.add(
        NAME,
        lambda grpc_server: open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            servicer, grpc_server
        ),
    )
