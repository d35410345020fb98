"""inference.GRPCInferenceService: runs a release's model for Triton's and KServe's clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from vireo.inference import model_config_pb2 as config_pb
from vireo.inference import open_inference_pb2 as pb
from vireo.inference import open_inference_pb2_grpc
from vireo.server.errors import VireoError
from vireo.server.inference.tensors import Limits, metadata, read_inputs, write_output
from vireo.server.models.model import Model, ModelInputError, ModelOutputError
from vireo.server.models.signature import Tensor
from vireo.server.pod.release_service import Releases, served
from vireo.server.pod.run_queue import RunQueue
from vireo.server.recommend.runner import Caller
from vireo.server.rpc.admission import Admission
from vireo.server.rpc.errors import RpcError, invalid_argument, not_found
from vireo.server.rpc.guard import ServiceLimits
from vireo.server.rpc.reading import Context
from vireo.server.rpc.server import RpcServer
from vireo.server.rpc.settings import RpcSettings

log = structlog.get_logger()

PLATFORM = "onnxruntime_onnx"
_BACKEND = "onnxruntime"

T = TypeVar("T")

NAME = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MAX_BATCH = 32
"""Maximum viewers in one request."""
EXTENSIONS = ("model_configuration",)
"""Triton's names of the extensions that gRPC has; HTTP has another one."""
_CALL_SECONDS, _BYTE_SECONDS = 1e-3, 1e-7
"""Cost of a call, and of each byte of its inputs."""
_RELEASE_PARAMETER = "release_id"


def model_config(model: Model) -> config_pb.ModelConfig:
    """Return the configuration of a model that is served."""
    return config_pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend=_BACKEND,
        max_batch_size=0,
        input=[config_pb.ModelInput(**_described(*each)) for each in model.inputs.items()],
        output=[config_pb.ModelOutput(**_described(model.output, model.answer))],
    )


def _described(name: str, tensor: Tensor) -> dict[str, Any]:
    found = metadata(name, tensor)
    data_type = config_pb.DataType.Value(f"TYPE_{found.datatype}")
    return {"name": name, "data_type": data_type, "dims": found.shape}


@dataclass(frozen=True)
class ServedModel:
    """A model that callers may run, and its limits."""

    model: Model
    limits: Limits

    def infer(self, request: pb.ModelInferRequest, release_id: str) -> pb.ModelInferResponse:
        """Return the model's output for a request.

        Raises:
            RpcError: INVALID_ARGUMENT if an input doesn't fit, FAILED_PRECONDITION if the output
                isn't finite.
        """
        inputs = read_inputs(request, self.model, self.limits)
        try:
            values = self.model.run(inputs)
        except ModelInputError as error:
            raise invalid_argument([("inputs", str(error))]) from error
        except ModelOutputError as error:
            # Neither the inputs are at fault, which are valid, nor the server, whose model
            # reproduced its golden outputs. UNAVAILABLE would have clients retry in vain.
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{error} for these inputs; it fails as long as release {release_id} is served",
            ) from error
        response = pb.ModelInferResponse(
            model_name=self.model.name, model_version=self.model.version, id=request.id
        )
        response.parameters[_RELEASE_PARAMETER].string_param = release_id
        write_output(response, self.model.output, values, raw=bool(request.raw_input_contents))
        return response


@dataclass(frozen=True, eq=False)
class InferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer, Generic[T]):
    """Serves the models of the loader's current release."""

    loader: Releases[T]
    """Has the pod's releases."""
    queue: RunQueue
    """The pod's queue, in which models take their turn."""
    models_of: Callable[[T], Sequence[ServedModel]]
    """Returns the models of a release's content."""
    ready: Callable[[], bool]
    """Whether the pod is SERVING."""

    async def ServerLive(self, _: pb.ServerLiveRequest, _context: Any) -> pb.ServerLiveResponse:  # noqa: N802
        """Return true: the server responds."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, _: pb.ServerReadyRequest, _context: Any
    ) -> pb.ServerReadyResponse:
        """Return the same as the health service."""
        return pb.ServerReadyResponse(ready=self.ready())

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, _context: Any
    ) -> pb.ModelReadyResponse:
        """Return false for an unknown model, as Triton does."""
        try:
            self._find(request.name, request.version)
        except RpcError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self.ready())

    async def ServerMetadata(  # noqa: N802
        self, _: pb.ServerMetadataRequest, _context: Any
    ) -> pb.ServerMetadataResponse:
        """Return name and version of Vireo, and the extensions of gRPC."""
        return pb.ServerMetadataResponse(
            name="vireo", version=version("vireo"), extensions=EXTENSIONS
        )

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, _context: Any
    ) -> pb.ModelMetadataResponse:
        """Return the model's inputs and output."""
        model = self._find(request.name, request.version)[0].model
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[model.version],
            platform=PLATFORM,
            inputs=[metadata(name, tensor) for name, tensor in model.inputs.items()],
            outputs=[metadata(model.output, model.answer)],
        )

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Run the model once, in a thread: a large batch takes tens of milliseconds."""
        model, release_id = self._find(request.model_name, request.model_version)
        return await self.queue.run_in_thread(
            lambda: model.infer(request, release_id), Caller(context.time_remaining())
        )

    async def ModelConfig(  # noqa: N802
        self, request: pb.ModelConfigRequest, _context: Any
    ) -> pb.ModelConfigResponse:
        """Return the model's configuration, as Triton describes it."""
        found = self._find(request.name, request.version)[0]
        return pb.ModelConfigResponse(config=model_config(found.model))

    def _find(self, name: str, model_version: str) -> tuple[ServedModel, str]:
        """Return the model of this name and version (the only one if empty), and its release's id.

        Raises:
            RpcError: NOT_FOUND for an unknown model, UNAVAILABLE while no release is loaded.
        """
        serving = served(self.loader)
        models = {each.model.name: each for each in self.models_of(serving.content)}
        found = models.get(name)
        if found is None:
            known = " and ".join(map(repr, models))
            raise not_found(f"there is no model {name!a} here, only {known}")
        if model_version not in ("", found.model.version):
            raise not_found(
                f"there is no version {model_version!a} of {name}, only {found.model.version!r}"
            )
        return found, serving.release_id


def add_inference_service(
    server: RpcServer,
    loader: Releases[T],
    queue: RunQueue,
    admission: Admission,
    models_of: Callable[[T], Sequence[ServedModel]],
) -> None:
    """Add the service to a pod's server; it is ready while the server is SERVING.

    `admission` is for runs of the model alone: whether it is ready is asked of a pod at any load.
    """
    servicer = InferenceServicer(loader, queue, models_of, lambda: server.serving)
    server.add(
        NAME,
        partial(open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server, servicer),
        limits=ServiceLimits(admission, work=_cost, admitted=frozenset({"ModelInfer"})),
    )


def _cost(request: Message) -> float:
    """Return what a request costs, in seconds: a run of a model takes longer, the more it reads."""
    bytes_read = request.ByteSize() if isinstance(request, pb.ModelInferRequest) else 0
    return _CALL_SECONDS + bytes_read * _BYTE_SECONDS


async def serve_inference_http(server: RpcServer, settings: RpcSettings, port: int) -> None:
    """Serve the service of `server` by HTTP until cancelled; see `http_endpoint`.

    Raises:
        VireoError: aiohttp isn't installed, which pods without HTTP do without; the port can't be
            bound, or a TLS file can't be read.
    """
    try:
        from vireo.server.inference.http_server import http_endpoint
    except ModuleNotFoundError as error:
        raise VireoError(
            "VIREO_OIP_HTTP_PORT needs aiohttp: pip install 'vireo[http]', or set it to 0"
        ) from error
    async with http_endpoint(server, settings, port) as bound:
        log.info("listening", protocol="HTTP", host=settings.host, port=bound)
        await asyncio.Event().wait()
