"""A pod of every kind that forwards each call to a real pod and spoils the answer."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import grpc.aio
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.builders.rpc import bare_server
from vireo.ops.stack.settings import PodKind
from vireo.server.rpc.errors import unavailable
from vireo.v1 import candidate_pb2, ranking_pb2, recommendation_pb2

UNAVAILABLE_SHARE = 0.6
SLOWER = 50
_DEFAULT_DEADLINE = 1.0
_SERVICES: dict[PodKind, ServiceDescriptor] = {
    "candidate": candidate_pb2.DESCRIPTOR.services_by_name["CandidateService"],
    "ranking": ranking_pb2.DESCRIPTOR.services_by_name["RankingService"],
    "gateway": recommendation_pb2.DESCRIPTOR.services_by_name["RecommendationService"],
    "slate": recommendation_pb2.DESCRIPTOR.services_by_name["RecommendationService"],
}


def _faulty(fault: str, method: MethodDescriptor, real: grpc.aio.Channel) -> Any:
    """Return the handler of a method that forwards its calls to `real`, and spoils answers.

    60% are UNAVAILABLE, or all are 50 times slower, or NaN is in place of each score: `fault` is
    unavailable, slow or nan.
    """
    request, response = map(GetMessageClass, (method.input_type, method.output_type))
    ask: Any = real.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request.SerializeToString,
        response.FromString,
    )

    async def answer(asked: Message, context: Any) -> Message:
        if fault == "unavailable" and random.random() < UNAVAILABLE_SHARE:  # noqa: S311
            error = unavailable("out of order", timedelta(0))
            context.set_trailing_metadata((("grpc-status-details-bin", error.status()),))
            await context.abort(error.code, error.message)
        started = time.monotonic()
        try:
            deadline = context.time_remaining() or _DEFAULT_DEADLINE
            answered: Message = await ask(asked, timeout=deadline)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
            raise
        if fault == "slow":
            await asyncio.sleep((SLOWER - 1) * (time.monotonic() - started))
        if fault == "nan":
            _garble(answered)
        return answered

    return grpc.unary_unary_rpc_method_handler(
        answer, request.FromString, response.SerializeToString
    )


def _garble(message: Message) -> None:
    """Put NaN in place of each number of every column of floats."""
    for field, value in message.ListFields():
        if field.is_repeated and field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
            value[:] = [math.nan] * len(value)
        elif field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                _garble(each)


@asynccontextmanager
async def faulty_pod(fault: str, targets: Mapping[PodKind, str]) -> AsyncIterator[str]:
    """Serve until the block ends, and yield host:port; `targets` are those of real pods by kind."""
    state, handlers = health.aio.HealthServicer(), []
    for kind, address in targets.items():
        service = _SERVICES[kind]
        real = grpc.aio.insecure_channel(address)
        methods = {each.name: _faulty(fault, each, real) for each in service.methods}
        handlers.append(grpc.method_handlers_generic_handler(service.full_name, methods))
        await state.set(service.full_name, health_pb2.HealthCheckResponse.SERVING)
    add_health = partial(health_pb2_grpc.add_HealthServicer_to_server, state)
    add_methods = lambda server: server.add_generic_rpc_handlers(handlers)  # noqa: E731
    async with bare_server(add_health, add_methods) as address:
        yield address
