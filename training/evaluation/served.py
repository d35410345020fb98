"""Evaluation of a running stack: every test viewer's best videos, asked for through its edge."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
from rich.console import Console

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.context import UNKNOWN, ContextIds, as_texts
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Manifest, ReleaseError
from vireo.training.data.dataset import load_dataset
from vireo.training.evaluation.baselines import QUICK
from vireo.training.evaluation.chain import run_chain
from vireo.training.evaluation.report import SERVED, write_json
from vireo.training.evaluation.run import (
    Agreement,
    Evaluated,
    add_systems,
    check_dataset,
    check_split,
    finish_report,
    measured_baselines,
)
from vireo.training.evaluation.systems import (
    SLATE,
    TestBed,
    TestViewers,
    features_before_test,
    of_lists,
)
from vireo.training.features.publication import published_times
from vireo.training.features.watches import Split, load_watches
from vireo.training.progress import Bars
from vireo.training.run import Run
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc, release_pb2, release_pb2_grpc
from vireo.v1.viewer_pb2 import Degradation

_MAX_ATTEMPTS = 3
"""Maximum requests for a viewer."""
_EXPLAINED = 3
"""Number of viewers whose history length is checked."""
_MAX_RETRIED_SHARE = 0.1
"""Maximum share of the viewers that is retried; above it the cause isn't a moment's load."""
_MIXED = Degradation.Name(Degradation.DEGRADATION_MIXED_RELEASES)
"""A degradation that load doesn't explain."""


@dataclass(frozen=True)
class Stack:
    """How to call a running stack."""

    target: str
    """host:port of its edge."""
    deadline: float = 5.0
    """Seconds for each request."""
    concurrency: int = 8
    """Maximum requests in flight."""
    credentials: grpc.ChannelCredentials | None = None
    """For an edge with TLS."""

    def channel(self, of: Any) -> Any:
        """Return a channel of `grpc` or `grpc.aio` to its edge."""
        if self.credentials is None:
            return of.insecure_channel(self.target)
        return of.secure_channel(self.target, self.credentials)

    def serving_release(self) -> str:
        """Return the id of the release that it serves.

        Raises:
            VireoError: no response, or no release is loaded yet.
        """
        with self.channel(grpc) as channel:
            stub = release_pb2_grpc.ReleaseServiceStub(channel)
            request = release_pb2.GetServingReleaseRequest()
            try:
                state = stub.GetServingRelease(request, timeout=self.deadline)
            except grpc.RpcError as error:
                raise VireoError(
                    f"no stack answers at {self.target} ({_described(error)}); start it with: "
                    "vireo up"
                ) from error
        if not state.release_id:
            raise VireoError(
                f"the stack at {self.target} has no release yet; publish one with: "
                "vireo release publish"
            )
        return str(state.release_id)


@dataclass(frozen=True)
class ServedAnswer:
    """The stack's response for one viewer."""

    viewer_id: str
    items: tuple[str, ...] = ()
    """Video ids, best first."""
    release_id: str = ""
    degradations: tuple[str, ...] = ()
    """Names of the degradations."""
    failure: str = ""
    """gRPC status and details if the call failed."""
    asked: int = 1
    """Number of attempts; this is the last one's response."""
    history_length: int = 0
    """Watches that the slate was made from; 0 unless an explanation was requested."""

    @property
    def may_do_better(self) -> bool:
        """Whether a stack under less load might respond in full."""
        return bool(self.failure or set(self.degradations) - {_MIXED})


def evaluate_served(
    home: Home,
    dataset: str,
    stack: Stack,
    path: Path,
    stored: Callable[[str], Manifest],
    console: Console,
    baselines: Sequence[str] = QUICK,
) -> Evaluated:
    """Request every test viewer's list from a stack, write the lists to `path`, measure them.

    `stored` returns the manifest of a release that isn't the newest run's, by its id.

    If the stack serves the newest run's release, that run's report gets the system "served", and
    the lists are compared with those of the same release in process. Both rank with the video
    features of the newest snapshot, whenever a watch was held out; the chain's are of its time.

    Raises:
        VireoError: no response, or the served release can't be tested on this data set.
    """
    release_id = stack.serving_release()
    staged = staged_as(home, dataset, release_id)
    manifest = staged or stored(release_id)
    check_dataset(manifest, dataset)
    check_split(manifest, Split.load(home, dataset))
    run, repo, videos = (
        Run(home.run(dataset)),
        home.features(dataset),
        load_dataset(home, dataset).videos,
    )
    video_ids = videos["video_id"].tolist()
    bed = TestBed.of(load_watches(home, dataset), video_ids, published_times(videos))
    answers = _ask(stack, bed.viewers, console)
    write_lists(path, answers)
    lists = list_rows(answers, video_ids)
    systems = measured_baselines(bed, repo, dataset, baselines, run.report if staged else None)
    # The stack goes by the clock, and answers with what came after the watch.
    systems["served"] = of_lists(bed.viewers.only_published(lists), bed.viewers)
    if staged is None:
        metrics = {name: system.measures(len(video_ids)) for name, system in systems.items()}
        return Evaluated(release_id, metrics, counts(answers))
    metrics = add_systems(run.report, bed, systems)
    agreement = Agreement.of(lists, _lists_in_process(run.release, bed, repo))
    evaluated = Evaluated(release_id, metrics, counts(answers), agreement)
    document = asdict(evaluated)
    del document["metrics"]
    write_json(run.report, SERVED, document)
    finish_report(run, manifest, bed, videos, baselines)
    return evaluated


def staged_as(home: Home, dataset: str, release_id: str) -> Manifest | None:
    """Return the newest run's manifest if its release has this id."""
    try:
        manifest = Manifest.read(home.staged_release(dataset))
    except ReleaseError:
        return None
    return manifest if manifest.release_id == release_id else None


def _lists_in_process(folder: Path, bed: TestBed, repo: Path) -> Int64Array:
    """Return the lists of a release's pods, without any, for all viewers: int64[v, c]."""
    candidates, ranking = CandidateRelease.load(folder), RankingRelease.load(folder)
    viewers, count = features_before_test(bed.watches, repo), candidates.manifest.candidates
    return run_chain(candidates, ranking, viewers, bed.viewers.targets, count, None).ranked


def _ask(stack: Stack, viewers: TestViewers, console: Console) -> list[ServedAnswer]:
    """Return the stack's responses at the times of the held-out watches."""
    with Bars(console=console) as progress:
        task = progress.add_task("asking the stack", total=len(viewers.ids))

        async def ask() -> list[ServedAnswer]:
            await check_features(stack, viewers)
            ids, moments = viewers.ids, viewers.moments.tolist()
            advance = lambda: progress.advance(task)  # noqa: E731
            return await ask_in_full(stack, ids, moments, viewers.contexts, advance)

        return asyncio.run(ask())


async def check_features(stack: Stack, viewers: TestViewers) -> None:
    """Raise VireoError if the stack's features include the held-out watches.

    The features for serving do; then no held-out video is recommended, since its viewer has watched
    it. Viewers with short histories are checked, since long histories are truncated.
    """
    watched = np.array([len(rows) for rows in viewers.watched])
    few = np.argsort(watched, kind="stable")[:_EXPLAINED]
    ids, moments = [viewers.ids[place] for place in few], viewers.moments[few].tolist()
    answers = await ask_viewers(replace(stack, concurrency=1), ids, moments, explain=True)
    for answer, count in zip(answers, watched[few].tolist(), strict=True):
        if answer.history_length > count:
            raise VireoError(
                f"the stack at {stack.target} serves features that include the held-out watches: "
                f"viewer {answer.viewer_id} has {answer.history_length} watches instead of "
                f"{count}; omit --target to start a stack with features that don't"
            )


async def ask_viewers(
    stack: Stack,
    viewer_ids: Sequence[str],
    moments: Sequence[int],
    contexts: Sequence[ContextIds] = (),
    answered: Callable[[], None] = lambda: None,
    *,
    explain: bool = False,
) -> list[ServedAnswer]:
    """Return the stack's SLATE best videos for each viewer, in the order of `viewer_ids`.

    Args:
        stack: the stack.
        viewer_ids: the viewers.
        moments: time of each request's context, Unix seconds.
        contexts: context of each request; empty if none is known.
        answered: called after each response.
        explain: whether to request explanations.
    """
    free = asyncio.Semaphore(stack.concurrency)
    async with stack.channel(grpc.aio) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)

        async def ask(viewer_id: str, moment: int, context: ContextIds) -> ServedAnswer:
            request = recommendation_pb2.RecommendRequest(
                viewer_id=viewer_id, page_size=SLATE, explain=explain
            )
            request.context.time.FromSeconds(moment)
            for name, text in as_texts(context, moment).items():
                setattr(request.context, name, text)
            async with free:
                try:
                    response = await stub.Recommend(request, timeout=stack.deadline)
                except grpc.aio.AioRpcError as error:
                    return ServedAnswer(viewer_id, failure=_described(error))
                finally:
                    answered()
            return ServedAnswer(
                viewer_id,
                items=tuple(item.video_id for item in response.items),
                release_id=response.release_id,
                degradations=tuple(map(Degradation.Name, response.degradations)),
                history_length=response.explanation.history_length,
            )

        known = contexts or [UNKNOWN] * len(viewer_ids)
        return list(await asyncio.gather(*map(ask, viewer_ids, moments, known)))


async def ask_in_full(
    stack: Stack,
    viewer_ids: Sequence[str],
    moments: Sequence[int],
    contexts: Sequence[ContextIds] = (),
    answered: Callable[[], None] = lambda: None,
) -> list[ServedAnswer]:
    """Like `ask_viewers`, but retry the failed and degraded requests one at a time.

    A stack under load degrades its responses, which says nothing about the release. There are no
    retries if too many requests need one, or if the last retries improved none.
    """
    answers = await ask_viewers(stack, viewer_ids, moments, contexts, answered)
    for attempt in range(2, _MAX_ATTEMPTS + 1):
        places = [place for place, answer in enumerate(answers) if answer.may_do_better]
        if len(places) > _MAX_RETRIED_SHARE * len(answers):
            break
        again = await ask_viewers(
            replace(stack, concurrency=1),
            [viewer_ids[place] for place in places],
            [moments[place] for place in places],
            [contexts[place] for place in places] if contexts else (),
        )
        for place, answer in zip(places, again, strict=True):
            answers[place] = replace(answer, asked=attempt)
        if all(answer.may_do_better for answer in again):
            break
    return answers


def write_lists(path: Path, answers: Sequence[ServedAnswer]) -> None:
    """Write a line a viewer, `{"user_id": ..., "items": [...]}`, without items for failures."""
    lines = (
        json.dumps({"user_id": answer.viewer_id, "items": answer.items}, ensure_ascii=False)
        for answer in answers
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise VireoError(f"cannot write {path}: {error.strerror}; give another --lists") from error


def list_rows(answers: Sequence[ServedAnswer], video_ids: Sequence[str]) -> Int64Array:
    """Return the lists as rows of `video_ids`, int64[v, SLATE], -1 for none or an unknown id."""
    rows = np.full((len(answers), SLATE), -1, np.int64)
    index = pd.Index(list(video_ids))
    for place, answer in enumerate(answers):
        items = answer.items[:SLATE]
        rows[place, : len(items)] = index.get_indexer(pd.Index(list(items), dtype=object))
    return rows


def counts(answers: Sequence[ServedAnswer]) -> dict[str, int]:
    """Return the number of responses, and of those that fell short in each way."""
    releases = Counter(answer.release_id for answer in answers if not answer.failure)
    return {
        "viewers": len(answers),
        "failed": sum(bool(answer.failure) for answer in answers),
        "degraded": sum(bool(answer.degradations) for answer in answers),
        "mixed_releases": sum(_MIXED in answer.degradations for answer in answers),
        "other_release": releases.total() - max(releases.values(), default=0),
        "short": sum(not answer.failure and len(answer.items) < SLATE for answer in answers),
        "asked_again": sum(answer.asked > 1 for answer in answers),
    }


def _described(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"
