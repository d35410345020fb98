"""What a consumer publishes, against a real log."""

from __future__ import annotations

import time

import pytest

from tests.builders.event_batches import message
from tests.builders.reading import take
from vireo.server.consumer.apply import Batch
from vireo.server.consumer.live_state import LiveState
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import BEGIN, CATALOG, EVENTS, STATE, Position
from vireo.server.features.keys import video_key
from vireo.v1 import catalog_pb2, log_pb2

HALF_LIFE = 3600.0


async def told(log: JetStreamLog, key: str) -> bytes:
    """What was published last; a stream that is compacted has that alone."""
    return b"".join(each.data for each in await take(log, STATE, key))


async def progress(log: JetStreamLog, partition: int) -> log_pb2.ConsumerProgress:
    return log_pb2.ConsumerProgress.FromString(await told(log, f"progress.{partition}"))


async def test_what_waits_is_published_with_its_age_until_it_is_applied(log: JetStreamLog) -> None:
    state = LiveState(log, 3, HALF_LIFE)
    await state.publish()
    assert not await told(log, "progress.3"), "it doesn't have the partition"
    state.begin(BEGIN)
    await state.publish()
    assert (await progress(log, 3)).pending == 0
    position = await log.append(EVENTS, "3", message([]))
    entry = (await take(log, EVENTS, "3"))[-1]
    assert abs(entry.stored_at - time.time()) < 60
    state.applying(entry)
    await state.publish()
    waiting = await progress(log, 3)
    assert waiting.pending > 0
    assert waiting.oldest_pending.ToMicroseconds() == pytest.approx(entry.stored_at * 1e6, abs=9)
    state.applied(Batch(Position(position)))
    await state.publish()
    done = await progress(log, 3)
    assert (done.position, done.pending) == (position, 0)
    assert not done.HasField("oldest_pending")


async def positions(log: JetStreamLog, partition: int, count: int) -> list[Position]:
    """Those of as many new messages of a partition."""
    for number in range(count):
        await log.append(EVENTS, str(partition), b"%d" % number)
    return [each.position for each in await take(log, EVENTS, str(partition))][-count:]


async def test_counting_goes_on_after_a_restart_and_counts_nothing_twice(
    log: JetStreamLog,
) -> None:
    before, after = await positions(log, 4, 2)
    state = LiveState(log, 4, HALF_LIFE)
    await state.restore()
    state.begin(BEGIN)
    watched = [(1, time.time(), "de"), (1, time.time() + 600, "")]
    state.applied(Batch(before, watched=watched))
    await state.publish()
    again = LiveState(log, 4, HALF_LIFE)
    await again.restore()
    again.begin(BEGIN)
    # Features that were built again catch up with what is counted.
    again.applied(Batch(before, watched=watched))
    again.applied(Batch(after, watched=watched[:1]))
    await again.publish()
    message = log_pb2.Trending.FromString(await told(log, "trending.4"))
    assert Position.parse(message.counted) == after
    [everywhere, german] = message.lists
    assert (everywhere.locale, german.locale) == ("", "de")
    assert everywhere.weights[0] == pytest.approx(3, rel=0.01)
    assert german.weights[0] == pytest.approx(2, rel=0.01)


async def test_impressions_are_counted_of_videos_of_the_catalogue_stream(
    log: JetStreamLog,
) -> None:
    state = LiveState(log, 5, HALF_LIFE)
    state.begin(BEGIN)
    for video_id, removed in (("new", False), ("gone", False), ("gone", True)):
        video = catalog_pb2.Video(video_id=video_id)
        change = log_pb2.CatalogChange(video=video, removed=removed)
        await log.append(CATALOG, f"{video_key(video_id):x}", change.SerializeToString())
    await log.append(CATALOG, "broken", b"\xff\xff")
    async for entries in log.read(CATALOG):
        state.learn(entries)
        if not entries:
            break
    new, gone, old = (video_key(name) for name in ("new", "gone", "old"))
    state.applied(Batch(Position(9), shown={("a", new), ("b", new), ("a", gone), ("a", old)}))
    # Who was shown a video and watches it later was shown it once.
    state.applied(Batch(Position(10), shown={("a", new), ("c", new)}))
    await state.publish()
    message = log_pb2.Trending.FromString(await told(log, "trending.5"))
    assert (list(message.new_keys), list(message.new_impressions)) == ([new], [3])


async def test_a_log_that_lost_its_tail_or_was_replaced_is_counted_from_its_begin(
    log: JetStreamLog,
) -> None:
    [first] = await positions(log, 6, 1)
    state = LiveState(log, 6, HALF_LIFE)
    state.begin(BEGIN)

    def at(sequence: int, name: str) -> Batch:
        return Batch(Position(sequence, name, sequence), watched=[(2, time.time(), "")])

    state.applied(at(50, first.log))
    state.applied(at(2, first.log))  # while it is read
    assert state.counted == 2
    state.applied(at(60, "another"))
    assert state.counted == 60
    await state.publish()
    again = LiveState(log, 6, HALF_LIFE)
    await again.restore()  # after a restart
    assert again.counted == 0
    again.begin(BEGIN)
    again.applied(Batch(first, watched=[(2, time.time(), "")]))
    await again.publish()
    message = log_pb2.Trending.FromString(await told(log, "trending.6"))
    assert Position.parse(message.counted) == first
    assert dict(zip(message.lists[0].keys, message.lists[0].weights, strict=True)) == pytest.approx(
        {2: 4}, rel=0.01
    )


async def test_features_of_another_log_that_catch_up_count_nothing_twice(
    log: JetStreamLog,
) -> None:
    [counted] = await positions(log, 7, 1)
    state = LiveState(log, 7, HALF_LIFE)
    state.begin(BEGIN)
    state.applied(Batch(counted, watched=[(3, time.time(), "")]))
    state.begin(Position(900, "another", 1))
    state.applied(Batch(counted, watched=[(3, time.time(), "")]))
    await state.publish()
    message = log_pb2.Trending.FromString(await told(log, "trending.7"))
    assert list(message.lists[0].weights) == pytest.approx([1], rel=0.01)
