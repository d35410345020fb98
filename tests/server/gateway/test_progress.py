import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.testing import capture_logs

from tests.builders.clock import Clock
from vireo.server.event_log.log import partition_of
from vireo.server.gateway.viewer import MAX_SILENCE, Progress
from vireo.v1.log_pb2 import ConsumerProgress


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(None, 4, 10.0, clock, lambda: 1000.0)  # type: ignore[arg-type]


def told(partition: int = partition_of("v", 4), oldest: int | None = None) -> bytes:
    pending = None if oldest is None else Timestamp(seconds=oldest)
    return ConsumerProgress(partition=partition, oldest_pending=pending).SerializeToString()


def test_a_consumer_has_some_seconds_to_speak_before_features_count_as_behind(
    clock: Clock, progress: Progress
) -> None:
    assert not progress.behind("v")
    clock.now += MAX_SILENCE + 1
    assert progress.behind("v")
    with capture_logs() as logs:
        for garbage in (b"\xff\xff", told(partition=7), told(partition=-1)):
            progress.update(garbage)
    assert [line["event"] for line in logs] == ["a consumer's progress can't be read"]
    assert progress.behind("v"), "garbage and unknown partitions are no sign of life"
    progress.update(told())
    assert not progress.behind("v")


def test_features_of_a_partition_are_behind_while_its_oldest_pending_event_is_too_old(
    progress: Progress,
) -> None:
    progress.update(told(oldest=985))
    assert progress.behind("v")
    viewers = map(str, range(99))
    other = next(each for each in viewers if partition_of(each, 4) != partition_of("v", 4))
    assert not progress.behind(other)
    progress.update(told(oldest=995))
    assert not progress.behind("v")


def test_a_wall_clock_that_is_set_silences_no_consumer() -> None:
    clock, wall = Clock(5.0), Clock()
    progress = Progress(None, 4, 10.0, clock, wall)  # type: ignore[arg-type]
    wall.now += 3600
    assert not progress.behind("v")
    progress.update(told(oldest=4590))
    assert not progress.behind("v"), "events have wall times"
    wall.now += 20
    assert progress.behind("v")
