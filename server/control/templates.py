"""Read the YAML templates of `envoy/`, fill in placeholders, and parse them into resources."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from vireo.server.control.snapshot import Resource

FOLDER = Path(__file__).parents[2] / "envoy"

_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")
_TYPE = re.compile(r"type\.googleapis\.com/(envoy\.[\w.]+)\.\w+")


def filled(name: str, values: Mapping[str, object]) -> dict[str, Any]:
    """Return the document `envoy/<name>.yaml` with each `${placeholder}` replaced.

    A string that consists of a placeholder only becomes the value itself, of any type: without a
    value, None, its field or item is left out, and a list in a list becomes items of that. The
    parts of `envoy/shared.yaml` are values, too.

    Raises:
        KeyError: a placeholder has no value.
    """
    document: dict[str, Any] = _replaced(_parsed(name), {**_parsed("shared"), **values})
    return document


def resource(kind: type[Message], document: Mapping[str, Any]) -> Resource:
    """Return the resource that a document describes, of a kind of message of Envoy's API.

    Raises:
        google.protobuf.json_format.ParseError: it has a field or type unknown to the API.
    """
    parsed = json_format.ParseDict(dict(document), kind())
    return Resource.of(parsed, json.dumps(document, sort_keys=True).encode())


def _import_package(package: str) -> None:
    for each in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if each.name.endswith("_pb2"):
            importlib.import_module(f"{package}.{each.name}")


@cache
def _parsed(name: str) -> dict[str, Any]:
    text = (FOLDER / f"{name}.yaml").read_text()
    for package in {*_TYPE.findall(text)}:  # protobuf knows a type only once it is imported
        _import_package(package)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def _replaced(node: Any, values: Mapping[str, object]) -> Any:
    if isinstance(node, dict):
        found = ((key, _replaced(each, values)) for key, each in node.items())
        return {key: value for key, value in found if value is not None}
    if isinstance(node, list):
        items: list[Any] = []
        for item in (_replaced(each, values) for each in node):
            if item is not None:
                items.extend(item if isinstance(item, list) else [item])
        return items
    if not isinstance(node, str):
        return node
    whole = _PLACEHOLDER.fullmatch(node)
    if whole:
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda found: str(values[found[1]]), node)
