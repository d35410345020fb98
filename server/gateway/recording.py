"""Adds the services that write to the log to a gateway."""

from __future__ import annotations

import math
from functools import partial

from vireo.v1.catalog_pb2_grpc import add_CatalogServiceServicer_to_server
from vireo.v1.event_pb2_grpc import add_EventServiceServicer_to_server

from server.event_log.jetstream import JetStreamLog
from server.gateway import catalog, events
from server.gateway.appender import Appender
from server.gateway.catalog import CatalogServicer
from server.gateway.events import EventLimits, EventServicer
from server.gateway.log_room import LogRoom
from server.gateway.settings import GatewaySettings
from server.live.takedowns import Takedowns
from server.pod.admission import Admission
from server.rpc.guard import ServiceLimits
from server.rpc.server import RpcServer


def add_recording(
    server: RpcServer,
    settings: GatewaySettings,
    log: JetStreamLog | None,
    room: LogRoom | None = None,
    takedowns: Takedowns | None = None,
) -> None:
    """Add EventService and CatalogService to a server; without a log they are UNIMPLEMENTED.

    Their calls are admitted apart from those for slates: one can't take the other's places.
    `takedowns` are those that are followed.
    """
    limits = EventLimits(
        settings.max_event_future,
        settings.max_event_past,
        settings.max_event_streams,
    )
    target = settings.queue_delay_target if settings.shedding else math.inf
    recorder = EventServicer(Appender(log), settings.event_log.event_partitions, limits, room)
    changer = CatalogServicer(Appender(log), takedowns)
    for name, register, rules, work in (
        (
            events.NAME,
            partial(add_EventServiceServicer_to_server, recorder),
            recorder.violations,
            recorder.cost,
        ),
        (
            catalog.NAME,
            partial(add_CatalogServiceServicer_to_server, changer),
            catalog.violations,
            catalog.cost,
        ),
    ):
        admission = Admission(settings.max_event_calls, target=target)
        server.add(name, register, limits=ServiceLimits(admission, rules, work))
