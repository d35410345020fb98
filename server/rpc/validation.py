"""Checks a request against the rules in the protos."""

from __future__ import annotations

from typing import Any

import protovalidate
from google.protobuf.message import Message

from server.rpc.errors import invalid_argument


def validate(request: Message) -> None:
    """Checks every protovalidate rule.

    Raises:
        RpcError: INVALID_ARGUMENT with a BadRequest that lists every violation by field.
    """
    found = protovalidate.collect_violations(request)
    if found:
        raise invalid_argument(
            [(_field(request, violation.proto), violation.proto.message) for violation in found]
        )


def _field(request: Message, violation: Any) -> str:
    """The field's path, for example `viewer.attributes[0]`.

    A rule over several fields names the one to mend by its id, `<field>.<what is wrong>`.
    """
    if violation.field is None:
        name: str = violation.rule_id.partition(".")[0]
        return name if name in request.DESCRIPTOR.fields_by_name else ""
    parts = []
    for element in violation.field.elements:
        subscript = f"[{element.subscript.value}]" if element.subscript else ""
        parts.append(element.field_name + subscript)
    return ".".join(parts)
