"""BentoML: one worker, pickled arrays in its JSON, no log line a request."""

from __future__ import annotations

from typing import Any

import bentoml

from bench.peers import ranker


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Ranker:
    """The ranking pipeline."""

    def __init__(self) -> None:
        """Load the release."""
        self.pipeline = ranker.load()

    @bentoml.api
    async def rank(self, arrays: str) -> dict[str, list[Any]]:
        """Rank on the event loop, since a hand-over to a thread would only add latency."""
        found = ranker.rank(self.pipeline, ranker.unpacked(arrays))
        return {name: array.tolist() for name, array in found.items()}
