"""Ray Serve: one replica on one event loop. It accepts any body, so arrays come pickled."""

from __future__ import annotations

import pickle

from starlette.requests import Request
from starlette.responses import JSONResponse

from bench.peers import ranker, rayserve


class Ranker:
    """The ranking pipeline."""

    def __init__(self) -> None:
        """Load the release."""
        self.pipeline = ranker.load()

    async def __call__(self, request: Request) -> JSONResponse:
        """Rank on the event loop, since a hand-over to a thread would only add latency."""
        arrays = pickle.loads(await request.body())  # noqa: S301 - our own load generator's
        found = ranker.rank(self.pipeline, arrays)
        return JSONResponse({name: array.tolist() for name, array in found.items()})


if __name__ == "__main__":
    rayserve.run(rayserve.deployed(Ranker).bind())
