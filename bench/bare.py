"""A chain as small as can be: what a slate costs if gRPC carries it and nothing else is wanted.

The same pipelines behind the same messages, run on the event loop; viewers' features in memory. No
checks of messages, deadlines, shedding, health checks, metrics, request ids or other releases.

    python -m bench.bare PORT RELEASE candidate
    python -m bench.bare PORT RELEASE ranking
    python -m bench.bare PORT RELEASE gateway VIEWERS CANDIDATE RANKING
    python -m bench.bare PORT RELEASE whole VIEWERS

VIEWERS is a file of `write_viewers`; CANDIDATE and RANKING are host:port. `whole` is one process
with both pipelines, which calls them as functions.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

from vireo.server.candidate import service as candidate
from vireo.server.ranking import service as ranking
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Manifest
from vireo.v1 import candidate_pb2, ranking_pb2
from vireo.v1 import candidate_pb2_grpc as candidates
from vireo.v1 import ranking_pb2_grpc as rankings
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import recommendation_pb2_grpc as slates
from vireo.v1.viewer_pb2 import ViewerFeatures

Call: TypeAlias = Callable[[Any], Awaitable[Any]]
"""Calls a method of a service."""


class Candidate(candidates.CandidateServiceServicer):
    """Retrieval."""

    def __init__(self, release: Path) -> None:
        """Load a release from its folder; no viewer's vector is kept."""
        self._pipeline = CandidatePipeline(CandidateRelease.load(release, 0))

    async def RetrieveCandidates(  # noqa: N802
        self, request: candidate_pb2.RetrieveCandidatesRequest, _: object = None
    ) -> candidate_pb2.RetrieveCandidatesResponse:
        """Return the candidates for one viewer."""
        query, _ = candidate.decode(request, self._pipeline.release)
        found = self._pipeline.retrieve(query)
        return candidate.encode(found, self._pipeline.release, request.page_size)


class Ranking(rankings.RankingServiceServicer):
    """Ranking."""

    def __init__(self, release: Path) -> None:
        """Load a release from its folder."""
        self._pipeline = RankingPipeline(RankingRelease.load(release))

    async def RankCandidates(  # noqa: N802
        self, request: ranking_pb2.RankCandidatesRequest, _: object = None
    ) -> ranking_pb2.RankCandidatesResponse:
        """Return the best of the request's candidates."""
        ranked = self._pipeline.rank(ranking.decode(request))
        return ranking.encode(ranked, self._pipeline.release, titles=request.titles)


class Gateway(slates.RecommendationServiceServicer):
    """The gateway: two calls, and the slate."""

    def __init__(
        self, count: int, viewers: Mapping[str, ViewerFeatures], retrieve: Call, rank: Call
    ) -> None:
        """Hold viewers' features by id.

        Args:
            count: number of candidates to rank.
            viewers: features of each viewer, with the watched keys.
            retrieve: calls the candidate service.
            rank: calls the ranking service.
        """
        self._count, self._viewers = count, viewers
        self._retrieve, self._rank = retrieve, rank

    async def Recommend(  # noqa: N802
        self, request: pb.RecommendRequest, _: object
    ) -> pb.RecommendResponse:
        """Return the slate for one viewer."""
        viewer = ViewerFeatures(asked_at=request.context.time.seconds)
        viewer.MergeFrom(self._viewers[request.viewer_id])
        found = await self._retrieve(
            candidate_pb2.RetrieveCandidatesRequest(
                viewer=viewer, count=self._count, page_size=request.page_size
            )
        )
        viewer.ClearField("watched_keys")
        ranked = await self._rank(
            ranking_pb2.RankCandidatesRequest(
                viewer=viewer,
                keys=found.keys,
                scores=found.scores,
                source_masks=found.source_masks,
                page_size=request.page_size,
            )
        )
        best = enumerate(zip(ranked.ids, ranked.scores, strict=True), 1)
        return pb.RecommendResponse(
            items=[
                pb.SlateItem(video_id=name, score=score, position=position)
                for position, (name, score) in best
            ]
        )


def write_viewers(path: Path, viewers: Mapping[str, ViewerFeatures]) -> None:
    """Write viewers' features, which have no time, for gateways that hold them in memory."""
    path.write_bytes(
        pickle.dumps({name: each.SerializeToString() for name, each in viewers.items()})
    )


def read_viewers(path: Path) -> dict[str, ViewerFeatures]:
    """Return viewers' features by id."""
    written = pickle.loads(path.read_bytes())  # noqa: S301 - the measurement's own
    return {name: ViewerFeatures.FromString(body) for name, body in written.items()}


def _stages(release: Path, *upstreams: str) -> tuple[Call, Call]:
    """Return what calls both stages: at two addresses or, without these, in this process."""
    if upstreams:
        find, rank = map(grpc.aio.insecure_channel, upstreams)
        retrieve = candidates.CandidateServiceStub(find).RetrieveCandidates
        return retrieve, rankings.RankingServiceStub(rank).RankCandidates
    return Candidate(release).RetrieveCandidates, Ranking(release).RankCandidates


async def main(port: str, folder: str, role: str, *upstreams: str) -> None:
    """Serve one role until killed."""
    server, release = grpc.aio.server(), Path(folder)
    if role == "candidate":
        candidates.add_CandidateServiceServicer_to_server(Candidate(release), server)
    elif role == "ranking":
        rankings.add_RankingServiceServicer_to_server(Ranking(release), server)
    else:
        viewers = read_viewers(Path(upstreams[0]))
        retrieve, rank = _stages(release, *upstreams[1:])
        count = Manifest.read(release).candidates
        # Of the service's methods only Recommend is measured.
        servicer = Gateway(count, viewers, retrieve, rank)  # type: ignore[abstract]
        slates.add_RecommendationServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    # As Vireo's pods do: otherwise each full collection walks through all that was imported.
    gc.collect()
    gc.freeze()
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
