"""Requests to the running stack, through its edge, for every test viewer's best videos."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pandas as pd

from vireo.server.arrays import Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.context import UNKNOWN, ContextIds, as_texts
from vireo.server.releases.manifest import Manifest
from vireo.training.evaluation.chain import SLATE, TestViewers
from vireo.training.features.watches import Split
from vireo.v1 import recommendation_pb2, recommendation_pb2_grpc, release_pb2, release_pb2_grpc
from vireo.v1.viewer_pb2 import Degradation

_MAX_ATTEMPTS = 3
"""Maximum requests for a viewer."""
_EXPLAINED = 3
"""Number of viewers whose history length is checked."""
_MAX_RETRIED_SHARE = 0.1
"""Maximum share of the viewers that is retried; above it the cause isn't a moment's load."""
_FAULTS = frozenset({Degradation.Name(Degradation.DEGRADATION_MIXED_RELEASES)})
"""Degradations that load doesn't explain."""


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
        return bool(self.failure or set(self.degradations) - _FAULTS)


@dataclass(frozen=True)
class Agreement:
    """How far the stack's lists equal those of the same release in process."""

    same_top_10: float
    """Share of viewers whose first ten are the same, in the same order."""
    differing_viewers: int
    """Number of other viewers, failed calls included."""

    @staticmethod
    def of(served: Int64Array, offline: Int64Array) -> Agreement:
        """Compare rows of the same viewers, int64[v, at least 10] both."""
        same = (served[:, :10] == offline[:, :10]).all(axis=1)
        return Agreement(float(same.mean()), int((~same).sum()))


def serving_release(
    target: str, deadline: float, credentials: grpc.ChannelCredentials | None = None
) -> str:
    """Return the id of the release that the stack at `target` (host:port) serves.

    Waits `deadline` seconds; `credentials` are for an edge with TLS.

    Raises:
        VireoError: no response, or no release is loaded yet.
    """
    with (
        grpc.secure_channel(target, credentials)
        if credentials is not None
        else grpc.insecure_channel(target)
    ) as channel:
        stub = release_pb2_grpc.ReleaseServiceStub(channel)
        try:
            state = stub.GetServingRelease(release_pb2.GetServingReleaseRequest(), timeout=deadline)
        except grpc.RpcError as error:
            raise VireoError(
                f"no stack answers at {target} ({_described(error)}); start it with: vireo up"
            ) from error
    if not state.release_id:
        raise VireoError(
            f"the stack at {target} has no release yet; publish one with: vireo release publish"
        )
    return str(state.release_id)


def check_dataset(manifest: Manifest, dataset: str) -> None:
    """Raise VireoError unless a release was trained on this data set with watches held out."""
    name = manifest.release_id
    if manifest.dataset != dataset:
        raise VireoError(
            f"release {name} was trained on {manifest.dataset}; "
            f"evaluate with --data {manifest.dataset}, or publish a release of {dataset}"
        )
    if manifest.holdout == "none":
        raise VireoError(
            f"release {name} was trained on every watch, so none is left to test on; evaluate its "
            f"measured twin with: vireo evaluate served --data {dataset}"
        )


def check_split(manifest: Manifest, split: Split) -> None:
    """Raise VireoError unless a release that passes `check_dataset` has this very split."""
    if (split.data_fingerprint, split.holdout) == (manifest.data_fingerprint, manifest.holdout):
        return
    raise VireoError(
        f"release {manifest.release_id} was trained on other features of {manifest.dataset} than "
        "these, and may have seen what they hold out; train again with: "
        f"vireo train --data {manifest.dataset}"
    )


async def check_features(
    target: str,
    viewers: TestViewers,
    *,
    deadline: float,
    credentials: grpc.ChannelCredentials | None = None,
) -> None:
    """Raise VireoError if the stack's features include the held-out watches.

    The features for serving do; then no held-out video is recommended, since its viewer has watched
    it. Viewers with short histories are checked, since long histories are truncated.
    """
    watched = np.array([len(rows) for rows in viewers.watched])
    few = np.argsort(watched, kind="stable")[:_EXPLAINED]
    ask = partial(ask_viewers, target, deadline=deadline, credentials=credentials)
    ids, moments = [viewers.ids[place] for place in few], viewers.moments[few].tolist()
    answers = await ask(ids, moments, concurrency=1, explain=True)
    for answer, count in zip(answers, watched[few].tolist(), strict=True):
        if answer.history_length > count:
            raise VireoError(
                f"the stack at {target} serves features that include the held-out watches: viewer "
                f"{answer.viewer_id} has {answer.history_length} watches instead of {count}; "
                "omit --target to start a stack with features that don't"
            )


async def ask_viewers(
    target: str,
    viewer_ids: Sequence[str],
    moments: Sequence[int],
    *,
    concurrency: int,
    deadline: float,
    contexts: Sequence[ContextIds] = (),
    answered: Callable[[], None] = lambda: None,
    credentials: grpc.ChannelCredentials | None = None,
    explain: bool = False,
) -> list[ServedAnswer]:
    """Return the stack's SLATE best videos for each viewer, in the order of `viewer_ids`.

    Args:
        target: host:port of the edge.
        viewer_ids: the viewers.
        moments: time of each request's context, Unix seconds.
        concurrency: maximum requests in flight.
        deadline: seconds for each request.
        contexts: context of each request; empty if none is known.
        answered: called after each response.
        credentials: for an edge with TLS.
        explain: whether to request explanations.
    """
    free = asyncio.Semaphore(concurrency)
    async with (
        grpc.aio.secure_channel(target, credentials)
        if credentials is not None
        else grpc.aio.insecure_channel(target)
    ) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)

        async def ask(viewer_id: str, moment: int, context: ContextIds) -> ServedAnswer:
            request = recommendation_pb2.RecommendRequest(
                viewer_id=viewer_id,
                page_size=SLATE,
                explain=explain,
            )
            request.context.time.FromSeconds(moment)
            for name, text in as_texts(context, moment).items():
                setattr(request.context, name, text)
            async with free:
                try:
                    response = await stub.Recommend(request, timeout=deadline)
                except grpc.aio.AioRpcError as error:
                    return ServedAnswer(viewer_id, failure=_described(error))
                finally:
                    answered()
            return ServedAnswer(
                viewer_id,
                items=tuple(item.video_id for item in response.items),
                release_id=response.release_id,
                degradations=tuple(Degradation.Name(value) for value in response.degradations),
                history_length=response.explanation.history_length,
            )

        known = contexts or [UNKNOWN] * len(viewer_ids)
        return list(await asyncio.gather(*map(ask, viewer_ids, moments, known)))


async def ask_in_full(
    target: str,
    viewer_ids: Sequence[str],
    moments: Sequence[int],
    *,
    concurrency: int,
    deadline: float,
    contexts: Sequence[ContextIds] = (),
    answered: Callable[[], None] = lambda: None,
    credentials: grpc.ChannelCredentials | None = None,
) -> list[ServedAnswer]:
    """Like `ask_viewers`, but retry the failed and degraded requests one at a time.

    A stack under load degrades its responses, which says nothing about the release. There are no
    retries if too many requests need one, or if the last retries improved none.
    """
    ask = partial(ask_viewers, target, deadline=deadline, credentials=credentials)
    answers = await ask(
        viewer_ids, moments, concurrency=concurrency, contexts=contexts, answered=answered
    )
    for attempt in range(2, _MAX_ATTEMPTS + 1):
        places = [place for place, answer in enumerate(answers) if answer.may_do_better]
        if len(places) > _MAX_RETRIED_SHARE * len(answers):
            break
        again = await ask(
            [viewer_ids[place] for place in places],
            [moments[place] for place in places],
            concurrency=1,
            contexts=[contexts[place] for place in places] if contexts else (),
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
    mixed = Degradation.Name(Degradation.DEGRADATION_MIXED_RELEASES)
    return {
        "viewers": len(answers),
        "failed": sum(bool(answer.failure) for answer in answers),
        "degraded": sum(bool(answer.degradations) for answer in answers),
        "mixed_releases": sum(mixed in answer.degradations for answer in answers),
        "other_release": releases.total() - max(releases.values(), default=0),
        "short": sum(not answer.failure and len(answer.items) < SLATE for answer in answers),
        "asked_again": sum(answer.asked > 1 for answer in answers),
    }


def _described(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"
