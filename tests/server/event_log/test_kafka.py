"""What is Kafka's own; all else is in test_contract.py. The brokers are librdkafka's mock ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Producer

from server.errors import VireoError
from server.event_log.kafka import KafkaLog
from server.event_log.log import EVENTS, STATE, LogAwayError
from server.event_log.settings import EventLogSettings
from tests.builders.kafka import PARTITIONS, mock_kafka
from tests.builders.reading import take


async def test_brokers_that_are_away_fail_an_append() -> None:
    log = KafkaLog(EventLogSettings(kafka_brokers="127.0.0.1:9"))
    with pytest.raises(LogAwayError, match=r"can't be written"):
        await log.append(EVENTS, "0", b"x")
    await log.close()


async def test_fewer_partitions_than_declared_are_named() -> None:
    with mock_kafka(1) as settings:
        more = settings.model_copy(update={"event_partitions": PARTITIONS + 1})
        log = KafkaLog(more)
        with pytest.raises(LogAwayError, match=r"vireo\.\w+ has fewer partitions"):
            await log.append(EVENTS, "0", b"x")
        await log.close()


async def test_whoever_only_looks_makes_no_topic() -> None:
    owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    [broker] = owner.list_topics(timeout=30).brokers.values()
    log = KafkaLog(EventLogSettings(kafka_brokers=f"{broker.host}:{broker.port}"), only_look=True)
    assert [await log.end(EVENTS, "0"), await log.end(STATE)] == [0, 0]
    await log.close()
    assert not owner.list_topics(timeout=30).topics


async def test_a_key_that_is_no_partition_is_refused() -> None:
    log = KafkaLog(EventLogSettings(kafka_brokers="127.0.0.1:9"))
    with pytest.raises(ValueError, match="key '1' of events names no partition"):
        await log.append(EVENTS, "1", b"x")
    with pytest.raises(ValueError, match="key '' of events names no partition"):
        await log.end(EVENTS)
    await log.close()


async def test_another_process_goes_on_where_the_first_one_ended() -> None:
    with mock_kafka(1) as settings:
        first = KafkaLog(settings)
        position = await first.append(EVENTS, "0", b"a")
        await first.append(EVENTS, "0", b"b")
        await first.close()
        second = KafkaLog(settings)
        assert [each.data for each in await take(second, EVENTS, "0", position, 1)] == [b"b"]
        assert await second.append(EVENTS, "0", b"c") == position + 2
        await second.close()


async def test_positions_beyond_the_end_are_read_from_the_begin() -> None:
    """Whoever kept them has outlived the brokers' data."""
    with mock_kafka(1) as settings:
        log = KafkaLog(settings)
        await log.append(EVENTS, "0", b"a")
        assert [each.data for each in await take(log, EVENTS, "0", 1_000, 1)] == [b"a"]
        await log.close()


def test_properties_of_a_file_that_is_missing_name_the_variable(tmp_path: Path) -> None:
    missing = tmp_path / "kafka.properties"
    with pytest.raises(VireoError, match=r"VIREO_KAFKA_CONFIG=.*No such file"):
        KafkaLog(EventLogSettings(kafka_brokers="x:1", kafka_config=str(missing)))


def test_properties_of_a_file_reach_the_client(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# ours\nsecurity.protocol = SASL_SSL\n\nsasl.password=a=b\n")
    log = KafkaLog(EventLogSettings(kafka_brokers="x:1", kafka_config=str(file)))
    assert log._config["security.protocol"] == "SASL_SSL"
    assert log._config["sasl.password"] == "a=b"
