"""What rules of the site would change: slates of some viewers with them and without."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import grpc
import grpc.aio

from vireo.ops.stack.s3 import open_store
from vireo.server.errors import NoAnswerError, VireoError
from vireo.server.gateway.check import check_candidates, check_ranked
from vireo.server.gateway.pipeline import RecommendPipeline
from vireo.server.gateway.pods import Remote, StageCall
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import FILES, GatewayRelease
from vireo.server.gateway.rule_tables import BadRulesError
from vireo.server.gateway.rules import SiteRules
from vireo.server.gateway.viewer import ReadFeatures
from vireo.server.home import Home
from vireo.server.releases.cache import ReleaseCache
from vireo.server.rpc.errors import RpcError
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

PAGE = 10
_SECONDS = 10.0


def release_at(target: str) -> GatewayRelease:
    """Return the release that the candidate pod at host:port serves.

    Raises:
        VireoError: the pod can't be reached, or S3 lacks its release.
    """
    home = Home.current()
    with grpc.insecure_channel(target) as channel:
        try:
            served = ReleaseServiceStub(channel).GetServingRelease(
                GetServingReleaseRequest(), timeout=_SECONDS
            )
        except grpc.RpcError as error:
            raise NoAnswerError(f"no candidate pod answers at {target}: {error}") from error
    with open_store() as store:
        folder = ReleaseCache(home.cache).fetch(store, served.release_id, FILES)
    return GatewayRelease.load(folder, home.root / "features", _SECONDS)


async def compare(
    rules: SiteRules,
    before: SiteRules | None,
    viewers: Sequence[str],
    targets: Sequence[str],
    release: GatewayRelease,
    region: str = "",
    seed: str = "",
) -> dict[str, Any]:
    """Return how slates differ.

    Args:
        rules: the rules to preview.
        before: those to compare with; None for none.
        viewers: the viewers' ids.
        targets: host:port of a candidate pod and of a ranking pod.
        release: the one that they serve.
        region: region of the requests.
        seed: the video that they follow; empty for home.

    Raises:
        VireoError: the rules don't fit the release.
    """
    _check(rules, release)
    if before is not None:
        _check(before, release, "--against: ")
    async with (
        grpc.aio.insecure_channel(targets[0]) as candidate,
        grpc.aio.insecure_channel(targets[1]) as ranking,
    ):

        async def slate(of: SiteRules | None, request: pb.RecommendRequest) -> pb.RecommendResponse:
            find = CandidateServiceStub(candidate).RetrieveCandidates
            order = RankingServiceStub(ranking).RankCandidates
            pipeline = RecommendPipeline(
                ReadFeatures(_SECONDS),
                StageCall("retrieval", Remote("retrieval", find, check_candidates), _SECONDS),
                StageCall("ranking", Remote("ranking", order, check_ranked), _SECONDS),
                rules=None if of is None else lambda: of,
            )
            query = RecommendQuery.of(request, "rules-check", time.monotonic() + 3 * _SECONDS)
            return (await pipeline.make(query, release)).slate

        overlaps, shortened, degraded, applied, share = list[float](), 0, 0, Counter[str](), 1.0
        for viewer in viewers:
            request = pb.RecommendRequest(
                viewer_id=viewer,
                page_size=PAGE,
                surface=pb.SURFACE_UP_NEXT if seed else pb.SURFACE_HOME,
                seed_video_id=seed,
                context=pb.RequestContext(region=region),
                explain=True,
            )
            try:
                usual, changed = await slate(before, request), await slate(rules, request)
            except RpcError as error:
                raise VireoError(error.message) from error
            shown, kept = ({item.video_id for item in each.items} for each in (usual, changed))
            overlaps.append(len(shown & kept) / max(1, len(shown)))
            shortened += len(kept) < len(shown)
            degraded += bool(changed.degradations)
            applied.update({rule.name: rule.count for rule in changed.explanation.rules})
            if changed.explanation.HasField("filter_share"):
                share = changed.explanation.filter_share
    return {
        "release": release.manifest.release_id,
        "viewers": len(viewers),
        "overlap": fmean(overlaps) if overlaps else 1.0,
        "forbidden": 1 - share,
        "shortened": shortened,
        "degraded": degraded,
        "applied": {name: count / len(viewers) for name, count in applied.items()},
    }


def _check(rules: SiteRules, release: GatewayRelease, whose: str = "") -> None:
    """Raise VireoError unless rules fit a release: pods would refuse them for each slate."""
    try:
        rules.check(release.declared)
    except BadRulesError as error:
        raise VireoError(f"{whose}release {release.manifest.release_id}: {error}") from error
