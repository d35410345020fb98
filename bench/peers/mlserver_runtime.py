"""MLServer: gRPC, raw tensors, no worker process between, no metrics, no log line a request."""

from __future__ import annotations

import asyncio
import logging
import os

from mlserver import MLModel, MLServer
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse

from bench.peers import ranker


class Ranker(MLModel):
    """The ranking pipeline."""

    async def load(self) -> bool:
        """Load the release."""
        self.pipeline = ranker.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Rank."""
        arrays = {tensor.name: NumpyCodec.decode_input(tensor).ravel() for tensor in payload.inputs}
        outputs = [
            NumpyCodec.encode_output(name, array)
            for name, array in ranker.rank(self.pipeline, arrays).items()
        ]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)


async def main() -> None:
    """Serve until killed."""
    logging.disable(logging.INFO)
    port = int(os.environ[ranker.PORT])
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        grpc_port=port,
        http_port=port + 1,
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
    )
    model = ModelSettings(name="ranker", implementation=Ranker, parameters=ModelParameters(uri="."))
    server = MLServer(settings)
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
