"""The gateway's part of a release: manifest, popular list and feature store; and when to swap.

Gateways swap last: to a new release only once the pods behind them serve it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import grpc.aio
import structlog
from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vireo.server.features.keys import video_key
from vireo.server.features.online_store import RedisSettings
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.rules import ActiveRules
from vireo.server.recommend.filters.declared import PUBLISHED, Declared, label
from vireo.server.recommend.filters.expression import FilterExpression
from vireo.server.recommend.page import fill_page
from vireo.server.releases.layout import (
    ATTRIBUTES,
    POPULAR_ATTRIBUTES,
    POPULAR_IDS,
    TAKEDOWNS,
    VIDEO_KEYS,
)
from vireo.server.releases.manifest import Manifest, ReleaseError, first_problem
from vireo.server.releases.tables import read_texts
from vireo.v1 import filter_pb2, rules_pb2
from vireo.v1.release_pb2 import GetServingReleaseRequest, GetServingReleaseResponse

if TYPE_CHECKING:
    from vireo.v1.release_pb2_grpc import ReleaseServiceAsyncStub

log = structlog.get_logger()

FILES = (POPULAR_IDS, ATTRIBUTES, POPULAR_ATTRIBUTES, TAKEDOWNS)
"""The files that the gateway needs of a release."""
_MAX_EVALUATED = 32
"""Number of filters that pods surely keep: for a million videos each may take 1 MB."""
_BYTE_SECONDS, _VIDEO_SECONDS = 4e-6, 6e-10
"""Cost of a byte of a filter, and that for each video: a value takes some 8 bytes, and 5 ns."""
_MIN_SECONDS = 1e-3
"""Cost below which a filter isn't worth a charge."""
_ASK_PAUSE_SECONDS = 0.1
_ASK_SECONDS = 2.0
_MAX_LOAD_SECONDS = 900.0
"""A load that takes longer than this counts as stuck."""


class PopularVideo(BaseModel):
    """What filters see of a popular video."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: frozenset[str]
    """Each "attribute=value"."""
    numbers: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    """By attribute; unknown ones are absent."""


_ATTRIBUTES = TypeAdapter(list[PopularVideo])


@dataclass(frozen=True)
class PopularList:
    """The most popular videos: what slates are made of without pods."""

    keys: dict[str, int]
    """Key of each id, best first."""
    attributes: Mapping[int, PopularVideo] = field(default_factory=dict)
    """What filters see of each key."""

    @staticmethod
    def load(folder: Path) -> PopularList:
        """Read the list from a release's folder; raise ReleaseError if it can't be used."""
        keys = {name: video_key(name) for name in read_texts(folder, POPULAR_IDS)}
        file = folder / POPULAR_ATTRIBUTES
        try:
            attributes = _ATTRIBUTES.validate_json(file.read_bytes())
        except OSError as error:
            raise ReleaseError(f"{file}: can't be read: {error}") from error
        except ValidationError as error:
            raise ReleaseError(f"{file}: can't be read: {first_problem(error)}") from error
        if len(attributes) != len(keys):
            raise ReleaseError(f"{file}: has {len(attributes)} videos instead of {len(keys)}")
        return PopularList(keys, dict(zip(keys.values(), attributes, strict=True)))

    @cached_property
    def unpublished(self) -> dict[int, float]:
        """When those videos are published that weren't yet on first use, by key, Unix seconds."""
        now = time.time()
        times = {key: each.numbers.get(PUBLISHED, now) for key, each in self.attributes.items()}
        return {key: at for key, at in times.items() if at > now}

    def best(
        self,
        count: int,
        blocked: Set[int],
        expression: FilterExpression | None = None,
        rules: ActiveRules | None = None,
        shown: Sequence[int] = (),
    ) -> list[str]:
        """Return the first `count` ids whose keys aren't in `blocked`.

        With a filter's `expression`, it holds for each of them. Of the site's `rules`, caps hold,
        and those of the list that they pin have their positions. Caps count those of the list that
        are among `shown`, the keys of the pages before.
        """
        kept = (
            name
            for name, key in self.keys.items()
            if key not in blocked and (expression is None or self._meets(key, expression))
        )
        if rules is None or not (rules.pinned or rules.message.caps):
            return [*islice(kept, count)]
        names = {self.keys[name]: name for name in kept}  # keys are the places of this page
        pinned = ((at, video_key(name)) for at, name in rules.pinned.items())
        pins = {at: key for at, key in pinned if key in names}
        asked = rules.message.caps
        chosen = fill_page(
            names,
            min(count, len(names)),
            pins=pins,
            caps=[(cap.max, partial(self._labels, cap)) for cap in asked],
            shown=[[each for key in shown for each in self._labels(cap, key)] for cap in asked],
        )
        return [names[key] for key in chosen.places.tolist()]

    def any_meets(self, expression: FilterExpression) -> bool:
        """Return whether a filter holds for a video of the list, blocked or not."""
        return any(self._meets(key, expression) for key in self.keys.values())

    def _labels(self, cap: rules_pb2.Cap, key: int) -> list[str]:
        """Return the labels that a cap counts of a video."""
        video = self.attributes.get(key)
        if video is None:
            return []
        if cap.values:
            return [each for each in cap.values if label(cap.attribute, each) in video.labels]
        prefix = label(cap.attribute, "")
        return [each for each in video.labels if each.startswith(prefix)]

    def _meets(self, key: int, expression: FilterExpression) -> bool:
        video = self.attributes.get(key)
        return video is not None and expression.holds(video.labels, video.numbers)


@dataclass(frozen=True)
class GatewayRelease:
    """Everything that a slate is made from; replaced as a whole."""

    manifest: Manifest
    popular: PopularList
    reader: FeatureReader
    """Features of the data set that the release was trained on."""
    declared: Declared
    """Attributes that videos can be filtered by."""
    merged: int = 0
    """Position in the log of the catalogue's changes up to which it has them; see `Live.merged`."""
    evaluated: LRUCache[bytes, None] = field(default_factory=lambda: LRUCache(_MAX_EVALUATED))
    """Digests of the latest filters that slates were made with."""

    @staticmethod
    def load(
        folder: Path, features: Path, timeout: float, redis: RedisSettings | None = None
    ) -> GatewayRelease:
        """Load it from a release's folder.

        Args:
            folder: the release's folder, with the manifest and FILES at least.
            features: folder with a Feast repository per data set, by its name.
            timeout: maximum seconds for the online store to respond.
            redis: where Redis is; of this process's environment if None.

        Raises:
            ReleaseError: a file of the release is invalid.
            VireoError: the features of its data set are missing.
        """
        manifest = Manifest.read(folder)
        reader = FeatureReader(features / manifest.dataset, timeout, redis)
        return GatewayRelease(manifest, PopularList.load(folder), reader, Declared.read(folder))

    def filter_cost(self, message: filter_pb2.Filter, rules: ActiveRules | None) -> float:
        """Return the cost of a filter in seconds; 0 if it is small, or pods have evaluated it."""
        videos = self.manifest.files[VIDEO_KEYS].size / 8
        cost = message.ByteSize() * (_BYTE_SECONDS + videos * _VIDEO_SECONDS)
        if cost < _MIN_SECONDS or digest_of(message, rules) in self.evaluated:
            return 0.0
        return cost


def digest_of(message: filter_pb2.Filter, rules: ActiveRules | None) -> bytes:
    """Return what stands for a filter as it was sent, and those of the rules: pods join them."""
    of_site = rules.filter.digest if rules and rules.filter else b""
    sent = message.SerializeToString(deterministic=True)
    return hashlib.blake2b(of_site + sent, digest_size=16).digest()


async def pods_serve(
    control: ReleaseServiceAsyncStub,
    limit: float,
    release_id: str,
    max_seconds: float = _MAX_LOAD_SECONDS,
) -> None:
    """Return once all candidate and ranking pods serve a release, or after the timeout.

    A timeout is no failure: the pods or the control plane may be gone for good, and slates of mixed
    releases say so.

    Args:
        control: the control plane, which knows the pods.
        limit: maximum seconds to wait while no pod is known to load the release.
        release_id: the release.
        max_seconds: maximum seconds to wait in all.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    end = start + max_seconds
    try:
        async with asyncio.timeout_at(min(start + limit, end)) as timeout:
            while (pods := await _ask_pods(control)).release_id != release_id:
                if pods.loading.release_id == release_id:
                    timeout.reschedule(min(clock() + limit, end))
                await asyncio.sleep(_ASK_PAUSE_SECONDS)
    except TimeoutError:
        log.warning(
            "pods don't serve the release yet; swapping anyway",
            release=release_id,
            seconds=round(clock() - start, 1),
        )


async def _ask_pods(control: ReleaseServiceAsyncStub) -> GetServingReleaseResponse:
    """Return what all pods serve; an empty response while the control plane has none."""
    request = GetServingReleaseRequest()
    try:
        response: GetServingReleaseResponse | None = await control.GetServingRelease(
            request, timeout=_ASK_SECONDS
        )
    except grpc.aio.AioRpcError:  # for example while it restarts: it is asked again
        return GetServingReleaseResponse()
    return response or GetServingReleaseResponse()  # None if it can't be parsed
