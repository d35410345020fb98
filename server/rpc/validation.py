"""Validates requests against the rules in the protos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeAlias

import protovalidate
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from vireo.buf.validate import validate_pb2
from vireo.server.rpc.errors import invalid_argument

MAX_NESTED_BYTES = 16 << 10
"""Maximum bytes of a message whose type may hold itself, as filters do: its lists may be short and
still have any number of messages in all. A filter of 64 terms has at most 13 KB."""

_MANY = 16
"""Number of items of a list above which only the first violation of a request is looked for."""

Rules: TypeAlias = Callable[[Message], Iterable[tuple[str, str]]]
"""Returns what is wrong with a request that the protos' rules can't say: (field, description). Its
lists aren't too long, but it may violate those rules in other ways."""


def validate(request: Message, rules: Rules | None = None) -> None:
    """Check every protovalidate rule, and further ones.

    Raises:
        RpcError: INVALID_ARGUMENT with a BadRequest that lists the violations by field.
    """
    # First and alone: protovalidate checks each item even of a list that is too long, and the half
    # million that fit into a message would hold up every other call.
    if overlong := list(_overlong(request, "")):
        raise invalid_argument(overlong)
    found = [(_field(request, each.proto), each.proto.message) for each in _violations(request)]
    if rules is not None:
        found += rules(request)
    if found:
        raise invalid_argument(found)


def _violations(request: Message) -> list[Any]:
    """Return violations; only the first of a request with a long list.

    Such a list may have thousands, and each takes up to 15 µs.
    """
    first = protovalidate.collect_violations(request, fail_fast=True)
    lists = (value for field, value in request.ListFields() if field.is_repeated)
    if not first or any(len(each) > _MANY for each in lists):
        return first
    return protovalidate.collect_violations(request)


def _overlong(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield what is too long of a message: lists by their max_items, and what may hold itself."""
    for field, value in message.ListFields():
        name = prefix + field.name
        if field.is_repeated:
            max_items = _max_items(field)
            if max_items is not None and len(value) > max_items:
                yield name, f"must contain no more than {max_items} item(s)"
            elif (
                max_items is not None
                and field.message_type is not None
                and _bounds_lists(field.message_type)  # of a thousand events none is looked at
            ):
                for place, each in enumerate(value):
                    yield from _overlong(each, f"{name}[{place}].")
        elif field.message_type is not None:
            if _holds_itself(field.message_type) and value.ByteSize() > MAX_NESTED_BYTES:
                yield name, f"must have no more than {MAX_NESTED_BYTES:,} bytes"
            else:
                yield from _overlong(value, f"{name}.")


@cache
def _bounds_lists(message: Descriptor) -> bool:
    """Return whether a message of this type, or one within it, has a list with a maximum."""
    return any(
        field.is_repeated and _max_items(field) is not None for field in _fields_within(message)
    )


@cache
def _holds_itself(message: Descriptor) -> bool:
    """Return whether a message of this type may have one of the same type within it."""
    return any(
        field.message_type is not None and field.message_type.full_name == message.full_name
        for field in _fields_within(message)
    )


def _fields_within(message: Descriptor) -> Iterator[FieldDescriptor]:
    """Yield the fields of a type, and those of the types within it."""
    seen, left = {message.full_name}, [message]
    while left:
        for field in left.pop().fields:
            yield field
            inner = field.message_type
            if inner is not None and inner.full_name not in seen:
                seen.add(inner.full_name)
                left.append(inner)


@cache
def _max_items(field: FieldDescriptor) -> int | None:
    rules = field.GetOptions().Extensions[validate_pb2.field].repeated
    return rules.max_items if rules.HasField("max_items") else None


def _field(request: Message, violation: Any) -> str:
    """Return the field's path, for example `viewer.attributes[0]`.

    The id of a rule over several fields of a message names the one to mend: `<field>.<what is
    wrong>`.
    """
    parts: list[str] = []
    message: Any = request.DESCRIPTOR  # to its types, of either of two implementations
    for element in violation.field.elements if violation.field is not None else ():
        subscript = f"[{element.subscript.value}]" if element.subscript else ""
        parts.append(element.field_name + subscript)
        field = message and message.fields_by_name.get(element.field_name)
        message = field.message_type if field is not None else None
    name = violation.rule_id.partition(".")[0]
    if message is not None and name in message.fields_by_name:
        parts.append(name)
    return ".".join(parts)
