"""Ray Serve: a chain of three deployments, composed by handles; viewers' features in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from bench.peers import ranker, rayserve, stages
from vireo.server.features.viewer import ViewerFeatures


class Candidate:
    """Retrieval."""

    def __init__(self) -> None:
        """Load the release."""
        self.pipeline = stages.load_candidates()

    async def __call__(self, viewer: ViewerFeatures) -> stages.Found:
        """Return the candidates for one viewer."""
        return stages.retrieve(self.pipeline, viewer)


class Ranking:
    """Ranking."""

    def __init__(self) -> None:
        """Load the release."""
        self.pipeline = ranker.load()

    async def __call__(
        self, viewer: ViewerFeatures, found: stages.Found, page_size: int
    ) -> dict[str, list[Any]]:
        """Return the ids and scores of the best candidates."""
        return stages.rank(self.pipeline, viewer, found, page_size)


class Gateway:
    """Two calls, and the slate."""

    def __init__(self, find: Any, rank: Any) -> None:
        """Load viewers' features, and hold the handles of both stages."""
        self.viewers = stages.load_viewers()
        # Ray's default is cloudpickle, which is slower.
        methods = {"request_serialization": "pickle", "response_serialization": "pickle"}
        self.find, self.rank = find.options(**methods), rank.options(**methods)

    async def __call__(self, request: Request) -> JSONResponse:
        """Return the slate for one viewer."""
        asked = await request.json()
        viewer = replace(self.viewers[asked["viewer_id"]], asked_at=asked["time"])
        found = await self.find.remote(viewer)
        viewer = stages.without_watched(viewer)
        return JSONResponse(await self.rank.remote(viewer, found, asked["page_size"]))


if __name__ == "__main__":
    deployed = rayserve.deployed
    rayserve.run(deployed(Gateway).bind(deployed(Candidate).bind(), deployed(Ranking).bind()))
