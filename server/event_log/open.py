"""Opens the log that the settings name."""

from __future__ import annotations

from server.errors import VireoError
from server.event_log.log import EventLog
from server.event_log.settings import EventLogSettings


def open_log(settings: EventLogSettings, *, only_look: bool = False) -> EventLog | None:
    """Return the log that the settings name, None if they name none; it connects when it is used.

    Args:
        settings: how to reach it, and how to make streams that aren't there.
        only_look: make none: they would have the settings of whoever looks. Streams that aren't
            there end at 0.

    Raises:
        VireoError: a client library isn't installed, or VIREO_KAFKA_CONFIG can't be read.
    """
    if settings.servers:
        try:
            from server.event_log.jetstream import JetStreamLog
        except ImportError as error:
            raise VireoError("VIREO_NATS_URL needs nats-py: pip install nats-py") from error

        return JetStreamLog(settings, only_look=only_look)
    if settings.kafka_brokers:
        try:
            from server.event_log.kafka import KafkaLog
        except ImportError as error:
            raise VireoError(
                "VIREO_KAFKA_BROKERS needs confluent-kafka: pip install 'vireo[kafka]'"
            ) from error

        return KafkaLog(settings, only_look=only_look)
    return None
