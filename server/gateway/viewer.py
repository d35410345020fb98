"""Reads a viewer: the stored row within a budget, or the one read last while the store fails.

`Progress` says whether rows lag behind the log of events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import structlog
from cachetools import Cache, TTLCache
from google.protobuf.message import DecodeError
from prometheus_client import Gauge, Histogram

from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import PROGRESS, STATE, partition_of
from vireo.server.features.activity import HISTORY_LIMIT
from vireo.server.features.keys import video_key
from vireo.server.features.viewer_rows import UnfitRowError
from vireo.server.gateway.features import FeatureReader
from vireo.server.gateway.pods import StageFailedError, StageSkippedError
from vireo.server.gateway.query import RecommendQuery
from vireo.server.rpc.spans import span
from vireo.v1.log_pb2 import ConsumerProgress
from vireo.v1.recommendation_pb2 import RequestProfile
from vireo.v1.viewer_pb2 import ViewerFeatures

log = structlog.get_logger()

_ENTRY_BYTES, _NUMBER_BYTES, _TEXT_BYTES = 1000, 8, 64
"""Memory of a cached row besides its columns, of a number and of a text besides its characters."""
_FAILURES = 3
"""Consecutive failures after which the store is skipped: one may be chance."""
PAUSE_SECONDS = 0.5
"""Seconds between two reads while it is skipped."""
_SHARE = 0.3
"""Share of the time left that the stage may use."""
_MIN_SECONDS = 0.001
"""Minimum budget of a read."""
_SHORT_BUDGET_SECONDS = 0.05
"""A store that misses a shorter budget isn't at fault: the caller's deadline is."""
MAX_SILENCE = 15.0
"""Seconds without a word of a consumer, who speaks every 5 s, after which its events count as not
applied. A consumer that restarts, or takes over, is back by then."""

CACHED_BYTES = Gauge(
    "vireo_stale_features_bytes",
    "Memory of cached features, which are served while the online store fails.",
)
CIRCUIT_OPEN = Gauge(
    "vireo_feature_store_circuit_open",
    "1 while the online store is failing, so that requests skip it.",
)
BEHIND = Gauge(
    "vireo_features_behind",
    "Partitions whose events reach the viewers' features late, or whose consumer is silent.",
)
READ_SECONDS = Histogram(
    "vireo_online_store_seconds",
    "Time of a read of a viewer's features, by outcome: ok, timeout or error.",
    ["outcome"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5),
)
_OK, _TIMEOUT, _ERROR = (READ_SECONDS.labels(each) for each in ("ok", "timeout", "error"))


class LastFeatures:
    """Cache of the rows last read, by data set and viewer; its memory and their age are bounded."""

    def __init__(
        self, max_bytes: int, max_age: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start empty; `max_age` is in seconds, as is `clock`."""
        self._entries: TTLCache[tuple[str, str], ViewerFeatures] = TTLCache(
            max_bytes, max_age, clock, _size
        )

    @property
    def bytes(self) -> int:
        """Memory of all entries; in any thread, since nothing is removed, as TTLCache would."""
        return int(Cache.currsize.fget(self._entries))  # type: ignore[attr-defined]

    def keep(self, dataset: str, viewer_id: str, viewer: ViewerFeatures) -> None:
        """Cache a row, in place of what was read longest ago.

        Unknown viewers are dropped: ids that nobody has would evict others.
        """
        key = dataset, viewer_id
        self._entries.pop(key, None)
        if viewer.attributes or any(_columns(viewer)):
            with suppress(ValueError):  # it is larger than the cache
                self._entries[key] = viewer

    def find(self, dataset: str, viewer_id: str) -> ViewerFeatures | None:
        """Return the row that was last read of a viewer; None if none is cached."""
        return self._entries.get((dataset, viewer_id))


def _size(viewer: ViewerFeatures) -> int:
    # protobuf rounds the room of a list up to a power of two.
    numbers = sum([_NUMBER_BYTES << len(column).bit_length() for column in _columns(viewer)])
    return _ENTRY_BYTES + numbers + sum(_TEXT_BYTES + len(text) for text in viewer.attributes)


def _columns(viewer: ViewerFeatures) -> Iterator[Sequence[int]]:
    for name in ("history", "hidden", "shown"):
        yield from (getattr(viewer, f"{name}_keys"), getattr(viewer, f"{name}_times"))
    yield from (viewer.watched_keys, viewer.followed_keys)


class ReadFeatures:
    """Reads features; a store that fails or hangs is skipped, but for a read now and then."""

    def __init__(self, timeout: float, last: LastFeatures | None = None) -> None:
        """Start by reading.

        Args:
            timeout: maximum seconds of a read.
            last: caches the rows that viewers wait for. Without it, metrics don't say either
                whether the store is skipped.
        """
        self._timeout, self._last = timeout, last
        self._failures = 0
        """Consecutive ones."""
        self._next_try = 0.0
        """When the store is read next while it is skipped, on the monotonic clock."""

    async def __call__(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures:
        """Return the viewer's features.

        Raises:
            StageFailedError: the store failed or was too slow.
            StageSkippedError: the caller left too little time, or the store was skipped.
        """
        now = time.monotonic()
        budget = query.budget(now, self._timeout, _SHARE)
        if budget < _MIN_SECONDS:
            raise StageSkippedError(f"{1000 * budget:.1f} ms are too little for a read")
        if self._failures >= _FAILURES:
            if now < self._next_try:
                text = "the online store failed a moment ago"
                raise StageSkippedError(text, reason="circuit_open")
            self._next_try = now + PAUSE_SECONDS
        try:
            with span("features"):
                viewer = await reader.read(query.viewer_id, budget)
        except TimeoutError as error:
            _TIMEOUT.observe(time.monotonic() - now)
            if budget < min(self._timeout, _SHORT_BUDGET_SECONDS):
                text = f"{1000 * budget:.1f} ms were too little for a read"
                raise StageSkippedError(text) from error
            text = f"the online store took more than {budget:.3g} s"
            raise self._failed(StageFailedError(text, reason="timeout")) from error
        except UnfitRowError as error:
            self._succeeded(now)
            text = f"the viewer's row can't be used: {error}"
            raise StageFailedError(text, reason="invalid") from error
        except Exception as error:
            # Declared policy: the viewer gets a slate without the store, which says so.
            _ERROR.observe(time.monotonic() - now)
            raise self._failed(StageFailedError(f"{type(error).__name__}: {error}")) from error
        self._succeeded(now)
        if self._last is not None:
            self._last.keep(reader.dataset, query.viewer_id, viewer)
        return viewer

    def _failed(self, failure: StageFailedError) -> StageFailedError:
        self._failures += 1
        self._next_try = time.monotonic() + PAUSE_SECONDS
        if self._failures == _FAILURES:
            log.warning("online store skipped", reason=str(failure))
            self._export(skipped=True)
        return failure

    def _succeeded(self, since: float) -> None:
        _OK.observe(time.monotonic() - since)
        if self._failures >= _FAILURES:
            log.info("online store available again")
            self._export(skipped=False)
        self._failures = 0

    def _export(self, *, skipped: bool) -> None:
        if self._last is not None:
            CIRCUIT_OPEN.set(skipped)


class Progress:
    """The progress of each partition's consumer. Use it from one event loop."""

    def __init__(
        self,
        log: JetStreamLog,
        partitions: int,
        max_lag: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Start with the benefit of the doubt: consumers have MAX_SILENCE to speak.

        Args:
            log: where the consumers tell.
            partitions: number of partitions.
            max_lag: seconds after which an event that isn't applied makes features late.
            clock: monotonic clock in seconds.
            wall: Unix time in seconds.
        """
        self._log, self._max_lag = log, max_lag
        self._clock, self._wall = clock, wall
        self._updated_at = [clock()] * partitions
        self._oldest: list[float | None] = [None] * partitions
        """When the oldest event that isn't applied was received, Unix seconds."""
        BEHIND.set_function(lambda: sum(map(self._is_behind, range(partitions))))

    async def run(self) -> None:
        """Read what consumers tell, until cancelled."""
        # What is trending need not come here, too; several keys would take a reader each.
        key = f"{PROGRESS}0" if len(self._updated_at) == 1 else ""
        async for entries in self._log.read(STATE, key):
            for entry in entries:
                if entry.key.startswith(PROGRESS):
                    self.update(entry.data)

    def update(self, data: bytes) -> None:
        """Apply a consumer's message; one that can't be read is logged, and no sign of life."""
        try:
            message = ConsumerProgress.FromString(data)
        except DecodeError as error:
            log.warning("a consumer's progress can't be read", reason=str(error))
            return
        if 0 <= message.partition < len(self._updated_at):
            self._updated_at[message.partition] = self._clock()
            oldest = message.oldest_pending
            late = message.HasField("oldest_pending")
            self._oldest[message.partition] = oldest.seconds + oldest.nanos / 1e9 if late else None

    def behind(self, viewer_id: str) -> bool:
        """Return whether a viewer's features may lack events that are recorded."""
        return self._is_behind(partition_of(viewer_id, len(self._updated_at)))

    def _is_behind(self, partition: int) -> bool:
        if self._clock() - self._updated_at[partition] > MAX_SILENCE:
            return True
        oldest = self._oldest[partition]
        return oldest is not None and self._wall() - oldest > self._max_lag


def with_profile(stored: ViewerFeatures, profile: RequestProfile, asked_at: int) -> ViewerFeatures:
    """Return the viewer's features with those of a request; `stored` isn't changed.

    A video that is stored as watched keeps its place in the history: the first watch counts, as in
    the feature store. Of two attributes of one name the request's counts.

    Args:
        stored: the features that are stored.
        profile: the request's.
        asked_at: time of the request, Unix seconds, for watches without a time.
    """
    viewer = ViewerFeatures()
    viewer.CopyFrom(stored)
    known = set(stored.watched_keys)
    watched: dict[int, int] = {}
    for each in profile.history:
        at = max(0, each.time.seconds) if each.HasField("time") else asked_at
        key = video_key(each.video_id)
        watched[key] = min(at, watched.get(key, at))
    new = sorted((at, key) for key, at in watched.items() if key not in known)
    if new:
        stored_history = zip(stored.history_times, stored.history_keys, strict=True)
        history = sorted([*stored_history, *new])[-HISTORY_LIMIT:]
        viewer.history_times[:] = [at for at, _ in history]
        viewer.history_keys[:] = [key for _, key in history]
        viewer.watched_keys.extend(key for _, key in new)
        viewer.watch_count += len(new)
    if profile.attributes:
        names = {_name(each) for each in profile.attributes}
        kept = [each for each in stored.attributes if _name(each) not in names]
        viewer.attributes[:] = [*profile.attributes, *kept]
    return viewer


def _name(attribute: str) -> str:
    return attribute.partition("=")[0]
