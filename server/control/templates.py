"""Read the YAML templates of `envoy/`, fill in placeholders, and parse them into protobufs."""

from __future__ import annotations

import importlib
import pkgutil
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
    _import_types(document)
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


def _import_types(node: Any) -> None:
    """Import the module of each `@type` of a document: only then protobuf knows the type."""
    if isinstance(node, dict):
        package = node.get("@type", "").rpartition("/")[2].rpartition(".")[0]
        if package.startswith("envoy."):
            _import_package(package)
        node = [*node.values()]
    if isinstance(node, list):
        for each in node:
            _import_types(each)


@cache
def _import_package(package: str) -> None:
    for each in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if each.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{each.name}")


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
