"""Fields of documents and messages: of their definitions, and of what was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import BaseModel, RootModel

from vireo.ops.upgrades.formats import Written


def model_fields(model: type[BaseModel], prefix: str = "") -> dict[str, Written]:
    """Return the fields of a document, with those of the documents within it."""
    found: dict[str, Written] = {}
    for name, field in model.model_fields.items():
        when: Written = "if set" if field.exclude_if is not None else "always"
        found[prefix + name] = when
        inner = _model_in(field.annotation)
        if inner is not None:
            # Of a list or a mapping there may be none.
            single = field.annotation is inner
            within = model_fields(inner, f"{prefix}{name}.")
            found |= within if single and when == "always" else dict.fromkeys(within, "if set")
    return found


def required_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields of a document without which it can't be read."""
    return tuple(name for name, field in model.model_fields.items() if field.is_required())


def document_fields(document: Any, model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the fields of a parsed document, named as in `model_fields`; no others of mappings."""
    found: list[str] = []
    for name, value in document.items() if isinstance(document, dict) else ():
        found.append(prefix + name)
        field = model.model_fields.get(name)
        inner = _model_in(field.annotation) if field is not None else None
        if inner is None or field is None:
            continue
        for each in _documents_in(value, whole=field.annotation is inner):
            found += document_fields(each, inner, f"{prefix}{name}.")
    return list(dict.fromkeys(found))


def _documents_in(value: Any, *, whole: bool) -> list[Any]:
    if whole:
        return [value]
    if isinstance(value, Mapping):
        # A mapping of documents, or an optional document.
        inner = list(value.values())
        return inner if inner and all(isinstance(each, dict) for each in inner) else [value]
    return value if isinstance(value, list) else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the document that a field is, or has; None if it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if issubclass(annotation, RootModel) else annotation
    if get_origin(annotation) is None:
        return None
    found = (_model_in(each) for each in get_args(annotation))
    return next((each for each in found if each is not None), None)


def message_fields(descriptor: Descriptor, prefix: str = "") -> dict[str, Written]:
    """Return the fields of a message, with those of our messages within it."""
    found: dict[str, Written] = {}
    for field in descriptor.fields:
        found[prefix + field.name] = "if set"
        inner = field.message_type
        if inner is not None and inner.full_name.startswith("vireo."):
            found |= message_fields(inner, f"{prefix}{field.name}.")
    return found


def unknown_fields(message: Message, prefix: str = "") -> Iterator[str]:
    """Yield the numbers of fields that this build doesn't know, after the names around them."""
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined]  # by __getitem__
        yield f"{prefix}{field.field_number}"
    for described, value in message.ListFields():
        if described.message_type is None or described.message_type.GetOptions().map_entry:
            continue
        for each in value if described.is_repeated else [value]:
            yield from unknown_fields(each, f"{prefix}{described.name}.")
