"""Read the YAML templates of `envoy/`, fill in placeholders, and parse them into protobufs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

FOLDER = Path(__file__).parents[2] / "envoy"

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
# A typed_config's @type is resolved only if the module of the type is imported.
_EXTENSIONS = (
    "access_loggers.stream.v3.stream_pb2",
    "filters.http.buffer.v3.buffer_pb2",
    "filters.http.cors.v3.cors_pb2",
    "filters.http.grpc_json_transcoder.v3.transcoder_pb2",
    "filters.http.grpc_web.v3.grpc_web_pb2",
    "filters.http.jwt_authn.v3.config_pb2",
    "filters.http.local_ratelimit.v3.local_rate_limit_pb2",
    "filters.http.lua.v3.lua_pb2",
    "filters.http.rbac.v3.rbac_pb2",
    "filters.http.router.v3.router_pb2",
    "filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "load_balancing_policies.least_request.v3.least_request_pb2",
    "load_balancing_policies.round_robin.v3.round_robin_pb2",
    "request_id.uuid.v3.uuid_pb2",
    "retry.host.previous_hosts.v3.previous_hosts_pb2",
    "retry.priority.previous_priorities.v3.previous_priorities_config_pb2",
    "transport_sockets.tls.v3.tls_pb2",
    "upstreams.http.v3.http_protocol_options_pb2",
)


def filled(name: str, values: Mapping[str, object]) -> dict[str, Any]:
    """Return the document `envoy/<name>.yaml` with each `${placeholder}` replaced.

    A string that consists of a placeholder only becomes the value itself, of any type. The parts
    of `envoy/shared.yaml` are values, too.

    Raises:
        KeyError: a placeholder has no value.
    """
    document: dict[str, Any] = _replaced(_parsed(name), {**_parsed("shared"), **values})
    return document


def message(kind: type[Message], document: Mapping[str, Any]) -> Message:
    """Parse a document into a message of Envoy's API.

    Raises:
        google.protobuf.json_format.ParseError: it has a field or type unknown to the API.
    """
    _import_extensions()
    parsed = kind()
    json_format.ParseDict(dict(document), parsed)
    _settle(parsed)
    return parsed


def _settle(node: Message) -> None:
    """Serialise each nested Any deterministically, with sorted maps.

    The order of maps otherwise differs between processes, so that resources would get new versions
    after a restart of the control plane.
    """
    if isinstance(node, any_pb2.Any):
        descriptor = descriptor_pool.Default().FindMessageTypeByName(node.TypeName())
        inner = message_factory.GetMessageClass(descriptor).FromString(node.value)
        _settle(inner)
        node.value = inner.SerializeToString(deterministic=True)
        return
    for field, value in node.ListFields():
        if field.message_type is None:
            continue
        if isinstance(value, Message):
            nested: Iterable[Any] = [value]
        else:  # a map, or a repeated field
            nested = value.values() if field.message_type.GetOptions().map_entry else value
        for each in nested:
            if isinstance(each, Message):
                _settle(each)


@cache
def _import_extensions() -> None:
    for module in _EXTENSIONS:
        importlib.import_module(f"envoy.extensions.{module}")


@cache
def _parsed(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return document


def _replaced(node: Any, values: Mapping[str, object]) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(each, values) for key, each in node.items()}
    if isinstance(node, list):
        return [_replaced(each, values) for each in node]
    if not isinstance(node, str):
        return node
    whole = _PLACEHOLDER.fullmatch(node)
    if whole:
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), node)
