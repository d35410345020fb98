"""LitServe: one worker, pickled arrays in its JSON, no log line a request.

It evaluates no annotations that are strings, so `from __future__ import annotations` is missing.
"""

import os
from typing import Any

import litserve
from fastapi import Request

from bench.peers import ranker


class Ranker(litserve.LitAPI):
    """The ranking pipeline."""

    def setup(self, device: Any) -> None:  # noqa: ARG002
        """Load the release."""
        self.pipeline = ranker.load()

    def decode_request(self, request: Request) -> Any:
        """Return the JSON document."""
        return request

    def predict(self, arrays: Any) -> Any:
        """Rank."""
        return ranker.rank(self.pipeline, ranker.unpacked(arrays["arrays"]))

    def encode_response(self, found: Any) -> Any:
        """Return lists, which become JSON."""
        return {name: array.tolist() for name, array in found.items()}


def main() -> None:
    """Serve until killed."""
    server = litserve.LitServer(
        Ranker(api_path="/rank"), accelerator="cpu", workers_per_device=1, timeout=30
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ[ranker.PORT]),
        num_api_servers=1,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
