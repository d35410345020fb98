"""`vireo rules check`: checks a file of rules, and shows what it would change."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import grpc
import grpc.aio
import typer

from vireo.ops.cli.recommend_all import DataOption, ViewersOption, chosen_viewers
from vireo.ops.edge import require_stack
from vireo.server.errors import VireoError
from vireo.server.features.online_store import prepare_lean_feast
from vireo.server.gateway.last_features import LastFeatures
from vireo.server.gateway.pipeline import RecommendPipeline
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import FILES, GatewayRelease
from vireo.server.gateway.rule_tables import BadRulesError
from vireo.server.gateway.rules import ActiveRules, SiteRules
from vireo.server.gateway.rules_file import read_rules
from vireo.server.gateway.stages.call import StageCall
from vireo.server.gateway.stages.pods import UnknownSeedError
from vireo.server.gateway.stages.read_features import ReadFeatures
from vireo.server.home import Home
from vireo.server.releases.cache import ReleaseCache
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.candidate_pb2_grpc import CandidateServiceStub
from vireo.v1.ranking_pb2_grpc import RankingServiceStub
from vireo.v1.release_pb2 import GetServingReleaseRequest
from vireo.v1.release_pb2_grpc import ReleaseServiceStub

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="TOML file of rules.")],
    against: Annotated[
        Path | None, typer.Option(help="Rules to compare with; none at all if absent.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check the file alone, without a running stack.")
    ] = False,
    data: DataOption = "",
    viewers: ViewersOption = None,
    sample: Annotated[int, typer.Option(min=1, help="Number of viewers to compare for.")] = 200,
    region: Annotated[str, typer.Option(help="Region of the requests.")] = "",
    seed: Annotated[str, typer.Option(help="Video that they follow, for surface up_next.")] = "",
    target: Annotated[
        str, typer.Option(help="CANDIDATE,RANKING: host:port of pods; the stack's if absent.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a file of rules; with a running stack, show what it would change.

    Slates of some viewers are made by the stack's pods with the rules and without, or with those of
    --against. Nothing that the stack serves changes.
    """

    def read(path: Path) -> SiteRules:
        try:
            return read_rules(path)
        except BadRulesError as error:
            raise VireoError("\n".join(f"{path}: {each}" for each in error.problems)) from error

    asked, before = read(file), read(against) if against else None
    if offline:
        result: dict[str, Any] = {"file": str(file), "rules": len(asked)}
    else:
        targets = target.split(",") if target else _targets()
        if len(targets) != 2:
            raise typer.BadParameter("--target must be CANDIDATE,RANKING")
        ids = chosen_viewers(data, viewers)
        chosen = random.Random(0).sample(ids, min(sample, len(ids)))  # noqa: S311
        found = preview(asked, before, chosen, targets, region=region, seed=seed)
        result = {"file": str(file), "rules": len(asked), **found}
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{file}: {len(asked)} rules, valid")
    if offline:
        return
    typer.echo(
        f"release {result['release']}, {result['viewers']} viewers: the top 10 keep "
        f"{result['overlap']:.1%} of their videos; {result['forbidden']:.1%} of the release's "
        f"videos are forbidden; {result['shortened']} pages are shorter; {result['degraded']} "
        "are degraded"
    )
    for name, count in result["applied"].items():
        typer.echo(f"{name}: {count:g} videos a slate")


def _targets() -> list[str]:
    """Return host:port of a candidate and a ranking pod of the running stack."""
    state = require_stack("name its pods with --target, or check the file alone with --offline")
    if state.secure:
        raise VireoError("pods of a secured stack ask for certificates; use --offline")
    ports = {each.name.partition("-")[0]: each.port for each in state.processes}
    return [f"127.0.0.1:{ports[kind]}" for kind in ("candidate", "ranking")]


PAGE = 10
_SECONDS = 10.0


def preview(
    rules: SiteRules,
    before: SiteRules | None,
    viewers: Sequence[str],
    targets: Sequence[str],
    *,
    region: str = "",
    seed: str = "",
) -> dict[str, Any]:
    """Return how slates of some viewers differ by rules, made by these pods.

    Args:
        rules: the rules to preview.
        before: those to compare with; None for none.
        viewers: the viewers' ids.
        targets: host:port of a candidate pod and of a ranking pod.
        region: region of the requests.
        seed: the video that they follow; empty for home.

    Raises:
        VireoError: the pods can't be reached, or the rules don't fit their release.
    """
    prepare_lean_feast()
    home = Home.current()
    with grpc.insecure_channel(targets[0]) as channel:
        try:
            served = ReleaseServiceStub(channel).GetServingRelease(
                GetServingReleaseRequest(), timeout=_SECONDS
            )
        except grpc.RpcError as error:
            raise VireoError(f"no candidate pod answers at {targets[0]}: {error}") from error
    store = ReleaseStore(S3Settings.load())
    folder = ReleaseCache(home.cache).fetch(store, served.release_id, FILES)
    release = GatewayRelease.load(folder, home.root / "features", _SECONDS)
    return asyncio.run(compare(rules, before, viewers, targets, release, region, seed))


async def compare(
    rules: SiteRules,
    before: SiteRules | None,
    viewers: Sequence[str],
    targets: Sequence[str],
    release: GatewayRelease,
    region: str = "",
    seed: str = "",
) -> dict[str, Any]:
    """Return how slates differ; see `preview`, whose pods serve `release`."""
    _check(rules, release)
    if before is not None:
        _check(before, release, "--against: ")
    async with (
        grpc.aio.insecure_channel(targets[0]) as candidate,
        grpc.aio.insecure_channel(targets[1]) as ranking,
    ):

        async def slate(of: SiteRules | None, request: pb.RecommendRequest) -> pb.RecommendResponse:
            def active(query: RecommendQuery) -> ActiveRules | None:
                followed = query.seed_key is not None
                if of is None:
                    return None
                return of.active(up_next=followed, region=region, first_page=True)

            find = CandidateServiceStub(candidate).RetrieveCandidates
            pipeline = RecommendPipeline(
                ReadFeatures(_SECONDS, LastFeatures(0, 0)),
                StageCall("retrieval", find, _SECONDS),
                StageCall("ranking", RankingServiceStub(ranking).RankCandidates, _SECONDS),
                rules_of=active,
            )
            query = RecommendQuery.of(request, "rules-check", time.monotonic() + 3 * _SECONDS)
            return await pipeline.recommend(query, release)

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
            except UnknownSeedError as error:
                raise VireoError(str(error)) from error
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
