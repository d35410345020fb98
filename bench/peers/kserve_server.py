"""KServe's Python server: gRPC, raw tensors, no REST, no log line a request."""

from __future__ import annotations

import logging
import os
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from bench.peers import ranker

_TYPES = {"int64": "INT64", "float32": "FP32"}


class Ranker(Model):
    """The ranking pipeline."""

    def load(self) -> bool:
        """Load the release."""
        self.pipeline = ranker.load()
        self.ready = True
        return True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        """Rank on the event loop, since a hand-over to a thread would only add latency."""
        arrays = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = []
        for name, array in ranker.rank(self.pipeline, arrays).items():
            output = InferOutput(name, list(array.shape), _TYPES[array.dtype.name])
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs, use_binary_outputs=True)


def main() -> None:
    """Serve until killed."""
    logging.disable(logging.INFO)
    model = Ranker("ranker")
    model.load()
    port = int(os.environ[ranker.PORT])
    ModelServer(http_port=port + 1, grpc_port=port, workers=1, enable_latency_logging=False).start(
        [model]
    )


if __name__ == "__main__":
    main()
