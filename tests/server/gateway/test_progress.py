from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from tests.builders.clock import Clock
from vireo.server.event_log.log import partition_of
from vireo.server.gateway.progress import MAX_SILENCE, Progress
from vireo.v1.log_pb2 import ConsumerProgress


def progress_of(clock: Clock, partitions: int = 1) -> Progress:
    return Progress(None, partitions, 10.0, clock, clock)  # type: ignore[arg-type]


def told(partition: int = 0, oldest: int | None = None) -> bytes:
    pending = None if oldest is None else Timestamp(seconds=oldest)
    return ConsumerProgress(partition=partition, oldest_pending=pending).SerializeToString()


def test_a_consumer_has_some_seconds_to_speak_before_features_count_as_behind() -> None:
    clock = Clock()
    progress = progress_of(clock)
    assert not progress.behind("v")
    clock.now += MAX_SILENCE + 1
    assert progress.behind("v")
    progress.update(told())
    assert not progress.behind("v")


def test_features_are_behind_while_the_oldest_pending_event_is_too_old() -> None:
    clock = Clock()
    progress = progress_of(clock)
    progress.update(told(oldest=985))
    assert progress.behind("v")
    progress.update(told(oldest=995))
    assert not progress.behind("v")


def test_only_the_viewers_of_that_partition_are_behind() -> None:
    clock = Clock()
    progress = progress_of(clock, partitions=4)
    progress.update(told(partition_of("v", 4), oldest=100))
    other = next(
        each for each in map(str, range(99)) if partition_of(each, 4) != partition_of("v", 4)
    )
    assert progress.behind("v")
    assert not progress.behind(other)


def test_garbage_and_unknown_partitions_are_no_sign_of_life() -> None:
    clock = Clock()
    progress = progress_of(clock)
    clock.now += MAX_SILENCE + 1
    with capture_logs() as logs:
        for data in (b"\xff\xff", told(partition=7), b"\xff", told(partition=-1)):
            progress.update(data)
    assert {line["event"] for line in logs} == {"a consumer's progress can't be read"}
    assert progress.behind("v")
