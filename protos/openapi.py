"""The OpenAPI document of what the edge serves as REST, out of the protos.

Paths come from google.api.http, descriptions from comments, bounds from protovalidate's rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.contract import Contract

Json: TypeAlias = dict[str, Any]

PACKAGE = "vireo.v1"
_VERBS = ("get", "put", "post", "delete", "patch")
_STATUS = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
_REQUEST_ID = {
    "x-request-id": {
        "description": "Identifies the answer in logs: the caller's own where one was sent.",
        "schema": {"type": "string"},
    }
}
_ERRORS = {
    "400": "INVALID_ARGUMENT: a field is out of bounds, of a wrong type or unknown; BadRequest "
    "lists the violations.",
    "404": "NOT_FOUND: what the request names isn't there.",
    "429": "RESOURCE_EXHAUSTED: the call was shed before anything was done; RetryInfo says when "
    "to try again.",
    "431": "The headers, the path and its parameters included, are larger than 60 KiB.",
    "501": "UNIMPLEMENTED: the stack doesn't offer this.",
    "503": "UNAVAILABLE: nothing serves, or the log of events is away; try again.",
    "504": "DEADLINE_EXCEEDED: the answer was not there in time.",
}
_BODY_ERRORS = {"413": "The body is larger than 1 MiB."}
_SCALARS: dict[int, Json] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    # As text, since JavaScript's numbers end at 2^53.
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "format": "uint64"},
}
_WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "example": "0.012s",
    },
}

_ANY = {
    "type": "object",
    "properties": {"@type": {"type": "string"}},
    "required": ["@type"],
}
_STATUS_SCHEMAS: Json = {
    "Status": {
        "type": "object",
        "description": "An error, as google.rpc.Status.",
        "properties": {
            "code": {
                "type": "integer",
                "format": "int32",
                "minimum": 1,
                "maximum": 16,
                "description": "The number of the gRPC status code, for example 3 for "
                "INVALID_ARGUMENT.",
            },
            "message": {"type": "string", "description": "What is wrong, for people."},
            "details": {
                "type": "array",
                "description": "What is wrong, for programs.",
                "items": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/BadRequest"},
                        {"$ref": "#/components/schemas/RetryInfo"},
                        _ANY,
                    ]
                },
            },
        },
        "required": ["code", "message"],
    },
    "BadRequest": {
        "type": "object",
        "description": "Violations of a request, 20 at most.",
        "properties": {
            "@type": {"const": "type.googleapis.com/google.rpc.BadRequest"},
            "fieldViolations": {
                "type": "array",
                "maxItems": 20,
                "description": "Each with its field.",
                "items": {
                    "type": "object",
                    "properties": {
                        "field": {
                            "type": "string",
                            "description": "Path of the field, for example "
                            "`excluded_video_ids[0]`.",
                        },
                        "description": {"type": "string", "description": "What is wrong with it."},
                    },
                },
            },
        },
        "required": ["@type"],
    },
    "RetryInfo": {
        "type": "object",
        "description": "When to try again.",
        "properties": {
            "@type": {"const": "type.googleapis.com/google.rpc.RetryInfo"},
            "retryDelay": {
                **_WELL_KNOWN["google.protobuf.Duration"],
                "description": "How long to wait first.",
            },
        },
        "required": ["@type"],
    },
}


def openapi(described: FileDescriptorSet) -> Json:
    """The document, of OpenAPI 3.1, for a descriptor set with comments."""
    return _Document(Contract(described)).build()


class _Document:
    """Collects the schemas that paths refer to."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._schemas: Json = {}

    def build(self) -> Json:
        paths: Json = {}
        tags = []
        for service in self._contract.services(PACKAGE):
            bound = [(method, self._contract.bindings(method)) for method in service.methods]
            if not any(bindings for _, bindings in bound):
                continue
            tags.append({"name": service.name, "description": self._said(service.full_name)})
            for method, bindings in bound:
                for place, binding in enumerate(bindings):
                    verb = binding.WhichOneof("pattern")
                    assert verb in _VERBS, f"{method.full_name} has a custom verb"
                    operation = self._operation(method, binding)
                    if place:
                        operation["operationId"] += f"_{verb}"
                    paths.setdefault(getattr(binding, verb), {})[verb] = operation
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Vireo",
                "version": PACKAGE.rpartition(".")[2],
                "description": "The REST form of Vireo's public gRPC API. Fields of JSON may have "
                "either name, `page_size` or `pageSize`; answers have the latter, and leave out "
                "what is zero, false or empty.",
            },
            "servers": [{"url": "/"}],
            "tags": tags,
            "paths": paths,
            "components": {"schemas": {**dict(sorted(self._schemas.items())), **_STATUS_SCHEMAS}},
        }

    def _operation(self, method: MethodDescriptor, binding: Any) -> Json:
        template = getattr(binding, binding.WhichOneof("pattern"))
        in_path = re.findall(r"\{(\w+)\}", template)
        description = self._said(method.full_name)
        rules = self._contract.message_rules(method.input_type)
        operation: Json = {
            "tags": [method.containing_service.name],
            "operationId": f"{method.containing_service.name}_{method.name}",
            "summary": re.split(r"\.\s", description)[0].rstrip(".") + ".",
            "description": "\n\n".join([description, *(f"Rule: {rule}." for rule in rules)]),
        }
        parameters = [self._parameter(method.input_type, name) for name in in_path]
        errors = dict(_ERRORS)
        if binding.body:
            assert binding.body == "*", f"{method.full_name}: a body that is a field"
            errors |= _BODY_ERRORS
            content = {"application/json": {"schema": self._reference(method.input_type)}}
            operation["requestBody"] = {"required": True, "content": content}
        else:
            taken = frozenset(in_path)
            parameters += self._queries(method.input_type, taken)
        if parameters:
            operation["parameters"] = parameters
        schema = self._reference(method.output_type)
        # A stream is a document a line, which OpenAPI before 3.2 has no word for.
        answered = {"application/json": {} if method.server_streaming else {"schema": schema}}
        operation["responses"] = {
            "200": {
                "description": self._said(method.output_type.full_name),
                "headers": _REQUEST_ID,
                "content": answered,
            },
            **{
                code: {"description": text, "headers": _REQUEST_ID, "content": _STATUS}
                for code, text in sorted(errors.items())
            },
        }
        return operation

    def _parameter(self, message: Descriptor, name: str) -> Json:
        """A field of a message that the path has."""
        field = message.fields_by_name[name]
        return {
            "name": name,
            "in": "path",
            "required": True,
            "description": self._said(field.full_name),
            "schema": self._schema(field),
        }

    def _queries(self, message: Descriptor, taken: frozenset[str], prefix: str = "") -> list[Json]:
        """The fields of a message as parameters; those of a message within it by dotted names."""
        found: list[Json] = []
        for field in message.fields:
            name = prefix + field.name
            if name in taken:
                continue
            nested = field.message_type
            if nested is not None and nested.full_name not in _WELL_KNOWN:
                if not field.is_repeated:  # messages in a list have no names: POST takes them
                    found += self._queries(nested, taken, f"{name}.")
                continue
            found.append(
                {
                    "name": name,
                    "in": "query",
                    "description": self._said(field.full_name),
                    "schema": self._schema(field),
                    **({"explode": True, "style": "form"} if field.is_repeated else {}),
                }
            )
        return found

    def _reference(self, kind: Descriptor | EnumDescriptor) -> Json:
        """Return a reference to the schema of a message or enum; add the schema if it is new."""
        name = kind.full_name.removeprefix(f"{PACKAGE}.")
        if name not in self._schemas:
            self._schemas[name] = {}  # messages may hold themselves
            self._schemas[name] = (
                self._message(kind) if isinstance(kind, Descriptor) else self._enum(kind)
            )
        return {"$ref": f"#/components/schemas/{name}"}

    def _message(self, message: Descriptor) -> Json:
        properties = {
            field.json_name: {"description": self._said(field.full_name), **self._schema(field)}
            for field in message.fields
        }
        required = [field.json_name for field in message.fields if self._must_be_there(field)]
        rules = self._contract.message_rules(message)
        said = [self._said(message.full_name), *(f"Rule: {rule}." for rule in rules)]
        return {
            "type": "object",
            "description": "\n\n".join(said),
            "properties": properties,
            **({"required": required} if required else {}),
        }

    def _must_be_there(self, field: FieldDescriptor) -> bool:
        """Whether leaving a field out breaks a rule: absent, it counts as empty."""
        rules = self._contract.rules(field)
        if field.has_presence:
            return bool(rules.required)
        return bool(rules.required or rules.string.min_bytes or rules.repeated.min_items)

    def _enum(self, enum: EnumDescriptor) -> Json:
        values = [
            f"- `{value.name}`: {self._said(f'{enum.full_name}.{value.name}')}"
            for value in enum.values
        ]
        return {
            "type": "string",
            "description": "\n".join([self._said(enum.full_name), "", *values]),
            "enum": [value.name for value in enum.values],
        }

    def _schema(self, field: FieldDescriptor) -> Json:
        rules = self._contract.rules(field)
        if not field.is_repeated:
            return {**self._single(field), **dict(_bounds(rules))}
        items = {**self._single(field), **dict(_bounds(rules.repeated.items))}
        return {"type": "array", "items": items, **dict(_bounds(rules))}

    def _single(self, field: FieldDescriptor) -> Json:
        if field.message_type is not None:
            known = _WELL_KNOWN.get(field.message_type.full_name)
            return dict(known) if known else self._reference(field.message_type)
        if field.enum_type is not None:
            return self._reference(field.enum_type)
        return dict(_SCALARS[field.type])

    def _said(self, name: str) -> str:
        """What the protos say of an element, a paragraph a line."""
        return re.sub(r"(?<!\n)\n(?!\n)", " ", self._contract.comments[name])


def _bounds(rules: Any) -> Iterator[tuple[str, Any]]:
    """A field's rules as JSON Schema has them.

    Ids are bounded in bytes. No text has more characters than bytes, so that the bound here is
    one that every valid text keeps to; a text of other than ASCII may have to be shorter.
    """
    kind = rules.WhichOneof("type")
    if kind is None or kind == "enum":
        return
    limits = getattr(rules, kind)
    names = {
        "string": {"min_bytes": "minLength", "max_bytes": "maxLength"},
        "repeated": {"min_items": "minItems", "max_items": "maxItems"},
    }.get(kind, {"gte": "minimum", "lte": "maximum"})
    for rule, value in limits.ListFields():
        if rule.name in ("items", "finite"):  # JSON has no other numbers
            continue
        assert rule.name in names, f"{rule.name} of {kind} has no form in the document yet"
        # A text of one byte has one character; of more, it may have fewer.
        yield names[rule.name], 1 if rule.name == "min_bytes" else value
