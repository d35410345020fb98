"""The mock brokers that librdkafka brings along, with the topics of the log.

They serve others, too: by sockets on loopback, for as long as their own client lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import Producer

from server.event_log.log import STREAMS
from server.event_log.settings import EventLogSettings

PARTITIONS = 4
"""Of each topic that they make."""
_SECONDS = 30.0


@contextmanager
def mock_kafka(brokers: int = 3) -> Iterator[EventLogSettings]:
    """How a process reaches brokers that have nothing yet."""
    owner = Producer(
        {"bootstrap.servers": "mock", "test.mock.num.brokers": brokers, "log_level": 0}
    )
    addresses = owner.list_topics(timeout=_SECONDS).brokers.values()
    for stream in STREAMS:
        # They make a topic when they are asked for it, and not by the call that is for that.
        owner.list_topics(f"vireo.{stream.name}", timeout=_SECONDS)
    urls = ",".join(f"{each.host}:{each.port}" for each in addresses)
    yield EventLogSettings(kafka_brokers=urls, event_partitions=PARTITIONS)
    owner.flush(0)
