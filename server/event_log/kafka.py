"""The log as topics of a Kafka cluster that a site has.

What its tests prove, and what not: they run against the mock brokers that librdkafka brings along,
in memory. These speak Kafka's protocol over sockets: idempotent produce, fetch, offsets. They have
no disk, replicas, retention or compaction, and create no topics when asked to: what a message
survives is the promise of your brokers (`acks=all`, replicas, `min.insync.replicas`), and untested
here, as is any real broker.

Where it differs from JetStream:

- An append's `once` is ignored: Kafka knows its own retries only, so a batch that a caller sends
  again is stored again. Features stay right, since they count each video once; so does a data set
  made from the log, since it takes each event id once. What is trending counts first watches and
  likes, once too; only impressions of new videos are counted again.
- Topics can't refuse when they are full: events go when `VIREO_EVENT_RETENTION` is over, and
  `VIREO_EVENT_MAX_BYTES` is ignored.
- While the brokers are away an append fails after 3 seconds instead of at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from server.errors import VireoError
from server.event_log.log import STREAMS, Entry, EventLog, LogAwayError, Stream, check_size
from server.event_log.metrics import CONNECTED
from server.event_log.settings import EventLogSettings

log = structlog.get_logger()

_APPEND_SECONDS = 3.0
"""Maximum seconds to wait until a message is stored."""
_ASK_SECONDS = 3.0
"""Maximum seconds to wait for what brokers know of topics."""
_RETRY_SECONDS = 1.0
_POLL_SECONDS = 1.0
"""Seconds for which a thread waits for messages, and so for which it outlives its reader."""
_BATCH = 500
_REPLICAS_TO_LOSE_ONE = 3
_TRACE = "traceparent"


class KafkaLog(EventLog):
    """A log on a cluster of Kafka brokers."""

    def __init__(self, settings: EventLogSettings, *, only_look: bool = False) -> None:
        """Hold the settings; the first use connects, and makes topics unless it may only look.

        Raises:
            VireoError: VIREO_KAFKA_CONFIG can't be read.
        """
        self._settings = settings
        self._only_look = only_look
        self._absent: frozenset[str] = frozenset()
        """Topics that weren't there, and weren't made."""
        self._config = {
            "bootstrap.servers": settings.kafka_brokers,
            "client.id": "vireo",
            "logger": _Lines(),
            **_properties(settings.kafka_config),
        }
        self._topics: asyncio.Task[None] | None = None
        self._producer: Producer | None = None
        self._sent = threading.Event()
        """Set if messages are under way, or to end the thread that waits for their delivery."""
        self._closed = False
        self._admin: AdminClient | None = None

    async def append(
        self,
        stream: Stream,
        key: str,
        data: bytes,
        once: str = "",  # noqa: ARG002 (see above)
        *,
        traceparent: str = "",
    ) -> int:
        """Store a message and return its position; see `EventLog`, and above for `once`."""
        check_size(data)
        partition = self._partition(stream, key)
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[int] = loop.create_future()

        def settle(error: KafkaError | None, message: Message) -> None:
            loop.call_soon_threadsafe(_settle, stored, error, message.offset())

        try:
            await self._ready()
            self._producing().produce(
                _topic(stream),
                data,
                key.encode(),
                partition,
                on_delivery=settle,
                headers=[(_TRACE, traceparent.encode())] if traceparent else [],
            )
            self._sent.set()
            position = await stored
        except (KafkaException, BufferError, TimeoutError) as error:
            CONNECTED.set(0)
            raise LogAwayError(f"the log can't be written: {_reason(error)}") from error
        CONNECTED.set(1)
        return position

    async def read(
        self, stream: Stream, key: str = "", after: int = 0
    ) -> AsyncIterator[Sequence[Entry]]:
        """Yield the messages after a position; see `EventLog`."""
        partition, loop = self._partition(stream, key), asyncio.get_running_loop()
        away = False
        while True:
            # A thread of its own: the loop's few would all wait for messages.
            thread = ThreadPoolExecutor(1, f"read-{stream.name}")
            consumer: Consumer | None = None
            try:
                await self._ready()
                end = await self._end(stream, partition)
                if after > end:
                    log.error("the log lost messages: it is read again", stream=stream.name)
                    after = 0
                consumer = self._consumer(stream, partition, after)
                CONNECTED.set(1)
                away, behind = False, after < end
                if not behind:
                    yield ()
                while True:
                    some = await loop.run_in_executor(thread, _messages, consumer)
                    entries = [_entry(message) for message in some]
                    ours = [each for each in entries if each.key == key] if key else entries
                    if ours:
                        yield ours
                    if entries:
                        after = entries[-1].position
                    if after >= end and (behind or not entries):
                        behind = False
                        yield ()
            except (KafkaException, TimeoutError) as error:
                if not away:
                    log.warning("the log can't be read", stream=stream.name, reason=_reason(error))
                away = True
                CONNECTED.set(0)
            finally:
                if consumer is not None:
                    thread.submit(consumer.close)
                thread.shutdown(wait=False)
            await asyncio.sleep(_RETRY_SECONDS)

    async def end(self, stream: Stream, key: str = "") -> int:
        """Return the position of the last message; see `EventLog`."""
        partition = self._partition(stream, key)
        try:
            await self._ready()
            return 0 if _topic(stream) in self._absent else await self._end(stream, partition)
        except (KafkaException, TimeoutError) as error:
            raise LogAwayError(f"the log can't be read: {_reason(error)}") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._topics is not None:
            self._topics.cancel()
            await asyncio.gather(self._topics, return_exceptions=True)
        self._closed = True
        self._sent.set()

    def _partition(self, stream: Stream, key: str) -> int:
        """Return the partition of a topic that has the messages of a key.

        Raises:
            ValueError: the stream is partitioned, and no partition is named.
        """
        if stream.compacted:
            return 0
        if not (key.isdecimal() and int(key) < self._settings.event_partitions):
            raise ValueError(f"key {key!r} of {stream.name} names no partition")
        return int(key)

    def _producing(self) -> Producer:
        """Return the producer, with a thread that waits for deliveries while there are any."""
        if self._producer is None:
            milliseconds = int(_APPEND_SECONDS * 1e3)
            own = {
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": milliseconds,
                "message.max.bytes": 1 << 20,
            }
            self._producer = producer = Producer({"linger.ms": 0, **self._config, **own})

            def deliver() -> None:
                while not self._closed:
                    self._sent.wait()
                    self._sent.clear()
                    while len(producer):
                        producer.poll(_POLL_SECONDS)

            threading.Thread(target=deliver, name="deliver", daemon=True).start()
        return self._producer

    def _consumer(self, stream: Stream, partition: int, after: int) -> Consumer:
        own = {
            # Positions are kept by whoever reads; the group's name is only asked for.
            "group.id": "vireo",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # For what retention has taken meanwhile.
            "auto.offset.reset": "earliest",
            # What a reader that is slow has in memory.
            "queued.max.messages.kbytes": 16 << 10,
        }
        consumer = Consumer({**self._config, **own})
        consumer.assign([TopicPartition(_topic(stream), partition, after)])
        return consumer

    async def _end(self, stream: Stream, partition: int) -> int:
        """Return the offset of the next message: positions are those offsets."""
        asked = TopicPartition(_topic(stream), partition)
        told = self._administrating().list_offsets(
            {asked: OffsetSpec.latest()}, request_timeout=_ASK_SECONDS
        )
        return int((await asyncio.wrap_future(told[asked])).offset)

    def _administrating(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._config)
        return self._admin

    async def _ready(self) -> None:
        """Return once the topics are there."""
        if self._topics is None or (
            self._topics.done() and (self._topics.cancelled() or self._topics.exception())
        ):
            self._topics = asyncio.create_task(self._make_topics())
        async with asyncio.timeout(_ASK_SECONDS):
            await asyncio.shield(self._topics)

    async def _make_topics(self) -> None:
        """Make the topics that aren't there; those that are keep their configuration.

        Raises:
            KafkaException: brokers are away, or don't let us.
        """
        admin, settings = self._administrating(), self._settings
        there = (await asyncio.to_thread(admin.list_topics, timeout=_ASK_SECONDS)).topics
        replicas = settings.event_replicas
        missing = []
        for stream in STREAMS:
            kept = {
                "cleanup.policy": "compact" if stream.compacted else "delete",
                "retention.ms": str(int(settings.event_retention * 1e3)),
                **({"min.insync.replicas": "2"} if replicas >= _REPLICAS_TO_LOSE_ONE else {}),
            }
            partitions = 1 if stream.compacted else settings.event_partitions
            if _topic(stream) not in there:
                # -1: as many replicas as the brokers make by default
                topic = NewTopic(
                    _topic(stream), partitions, replicas if replicas > 1 else -1, config=kept
                )
                missing.append(topic)
            elif len(there[_topic(stream)].partitions) < partitions:
                raise KafkaException(
                    KafkaError(
                        KafkaError.INVALID_PARTITIONS,
                        f"{_topic(stream)} has fewer partitions than VIREO_EVENT_PARTITIONS",
                    )
                )
        if self._only_look:
            self._absent = frozenset(topic.topic for topic in missing)
        elif missing:
            for made in admin.create_topics(missing, request_timeout=_ASK_SECONDS).values():
                try:
                    await asyncio.wrap_future(made)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise


class _Lines:
    """Logger of librdkafka's own lines, at the lowest level: it repeats each failed connection."""

    def log(self, level: int, message: str, *values: object) -> None:
        """Log a line at the lowest level."""
        log.debug("kafka", line=message % values if values else message, severity=level)


def _settle(stored: asyncio.Future[int], error: KafkaError | None, offset: int | None) -> None:
    if stored.done():
        return  # nobody waits any more
    if error is not None or offset is None:
        stored.set_exception(KafkaException(error))
    else:
        stored.set_result(offset + 1)


def _messages(consumer: Consumer) -> list[Message]:
    """Return what has come, as soon as something has; nothing after _POLL_SECONDS without.

    Raises:
        KafkaException: the topic can't be read.
    """
    first = consumer.poll(_POLL_SECONDS)
    if first is None:
        return []
    some = [first, *consumer.consume(_BATCH - 1, timeout=0)]
    for message in some:
        if (error := message.error()) is not None:
            raise KafkaException(error)
    return some


def _entry(message: Message) -> Entry:
    key, data, offset = message.key(), message.value(), message.offset()
    assert offset is not None, "a message that was read has an offset"
    trace = dict(message.headers() or ()).get(_TRACE) or b""
    text = trace.decode("ascii", "replace") if isinstance(trace, bytes) else trace
    return Entry(offset + 1, bytes(key or b"").decode(), bytes(data or b""), text)


def _topic(stream: Stream) -> str:
    return f"vireo.{stream.name}"


def _properties(file: str) -> dict[str, Any]:
    """Return the lines `name=value` of a file, as librdkafka's own tools read them."""
    if not file:
        return {}
    try:
        lines = [line.strip() for line in Path(file).read_text().splitlines()]
    except OSError as error:
        raise VireoError(f"VIREO_KAFKA_CONFIG={file!r}: {error.strerror}") from error
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}


def _reason(error: Exception) -> str:
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return error.args[0].str()
    return str(error) or "no answer in time"
