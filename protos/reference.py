"""Write docs/api.md and a page for each service, from the protos: `python -m protos.reference`."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from protos.contract import Contract
from protos.protoc import DESCRIPTOR_SET, SOURCES

INDEX = SOURCES.parent / "docs" / "api.md"
FOLDER = INDEX.with_suffix("")
PACKAGES = ("vireo.v1", "inference")

_INTRODUCTION = """# API reference

All services, methods, messages and enums of [protos](../protos), with units and bounds. A value out
of bounds is INVALID_ARGUMENT. See [rest.md](rest.md) for HTTP and JSON, [grpcurl.md](grpcurl.md)
for calls from a shell.

These pages are generated from the protos by `python -m protos.reference`.

| page | package | methods |
|---|---|---|
"""
_SHARED, _STORED = "shared", "stored"
_WITHOUT_SERVICE = {
    _SHARED: ("Shared messages", "Messages and enums of several services."),
    _STORED: ("Stored messages", "Messages of [the log](../event-log.md), which no service has."),
}


def reference(described: FileDescriptorSet) -> dict[Path, str]:
    """Return the pages as Markdown by path, for a descriptor set with comments."""
    contract = Contract(described)
    parts: dict[str, list[str]] = {}
    rows, users = [], defaultdict[str, set[str]](set)
    for service in (each for package in PACKAGES for each in contract.services(package)):
        page = service.name.removeprefix("GRPC").removesuffix("Service").lower()
        parts[page] = [_service(contract, service)]
        methods = ", ".join(f"`{each.name}`" for each in service.methods)
        rows.append(f"| [{service.name}](api/{page}.md) | `{service.file.package}` | {methods} |")
        for method in service.methods:
            _add_user(page, method.input_type, users)
            _add_user(page, method.output_type, users)
    for page, (title, text) in _WITHOUT_SERVICE.items():
        parts[page] = [f"# {title}", text]
        rows.append(f"| [{title}](api/{page}.md) | `vireo.v1` | |")
    for file in (each for package in PACKAGES for each in contract.files(package)):
        kinds: list[Descriptor | EnumDescriptor] = [*file.message_types_by_name.values()]
        for kind in (*kinds, *file.enum_types_by_name.values()):
            pages = users[kind.full_name] or {_STORED}
            page = _SHARED if len(pages) > 1 else min(pages)
            if isinstance(kind, Descriptor):
                parts[page] += _message(contract, kind)
            else:
                parts[page].append(_enum(contract, kind))
    written = {page: "\n\n".join(part.strip() for part in each) for page, each in parts.items()}
    return {
        INDEX: _INTRODUCTION + "\n".join(rows) + "\n",
        **{FOLDER / f"{page}.md": text + "\n" for page, text in _linked(written).items()},
    }


def _add_user(page: str, kind: Any, users: dict[str, set[str]]) -> None:
    """Add a page to the users of a message or enum, and of all that it contains."""
    if kind is not None and page not in users[kind.full_name]:
        users[kind.full_name].add(page)
        for field in getattr(kind, "fields", ()):
            _add_user(page, field.message_type or field.enum_type, users)


def _linked(pages: dict[str, str]) -> dict[str, str]:
    """Return pages whose links to headings name the page that has the heading."""
    places = {
        _anchor(heading): page
        for page, text in pages.items()
        for heading in re.findall(r"^#+ (\S+)$", text, re.MULTILINE)
    }

    def placed(link: re.Match[str]) -> str:
        return f"]({places[link[1]]}.md#{link[1]})"

    return {
        page: re.sub(r"\]\(#(\w+)\)", placed, text).replace(f"]({page}.md#", "](#")
        for page, text in pages.items()
    }


def _anchor(heading: str) -> str:
    return heading.lower().replace(".", "")


def _service(contract: Contract, service: ServiceDescriptor) -> str:
    parts = [f"# {service.name}", contract.comments[service.full_name]]
    for method in service.methods:
        parts += [f"## {service.name}.{method.name}", _signature(method)]
        parts.append(contract.comments[method.full_name])
        for binding in contract.bindings(method):
            verb = binding.WhichOneof("pattern")
            parts.append(f"REST: `{verb.upper()} {getattr(binding, verb)}`")
    return "\n\n".join(parts)


def _signature(method: MethodDescriptor) -> str:
    asked = "a stream of " * method.client_streaming + _link(method.input_type)
    answered = "a stream of " * method.server_streaming + _link(method.output_type)
    return f"Request: {asked}. Response: {answered}."


def _message(contract: Contract, message: Descriptor) -> list[str]:
    """A message, and those that are declared within it."""
    parts = [f"## {_name(message)}", contract.comments[message.full_name]]
    if message.fields:
        rows = ["| field | number | type | bounds | meaning |", "|---|---|---|---|---|"]
        for field in message.fields:
            cells = (
                f"`{field.name}`",
                str(field.number),
                _type(field),
                _bounds(contract.rules(field)),
                _cell(contract.comments[field.full_name]),
            )
            rows.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    for choice in message.oneofs:
        if len(choice.fields) > 1:
            names = ", ".join(f"`{field.name}`" for field in choice.fields)
            parts.append(f"`{choice.name}`: one of {names}.")
    parts += [f"Rule: {rule}." for rule in contract.message_rules(message)]
    nested = [each for each in message.nested_types if not each.GetOptions().map_entry]
    return ["\n\n".join(parts), *(text for each in nested for text in _message(contract, each))]


def _enum(contract: Contract, enum: EnumDescriptor) -> str:
    rows = [
        f"| `{value.name}` | {value.number} "
        f"| {_cell(contract.comments[f'{enum.full_name}.{value.name}'])} |"
        for value in enum.values
    ]
    table = "\n".join(["| value | number | meaning |", "|---|---|---|", *rows])
    return "\n\n".join([f"## {_name(enum)}", contract.comments[enum.full_name], table])


def _name(kind: Descriptor | EnumDescriptor) -> str:
    """Its name within its package."""
    return str(kind.full_name).removeprefix(f"{kind.file.package}.")


def _link(kind: Descriptor | EnumDescriptor) -> str:
    if kind.file.package not in PACKAGES:
        return f"`{kind.full_name}`"
    name = _name(kind)
    return f"[{name}](#{_anchor(name)})"


def _type(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (message.fields_by_name[each] for each in ("key", "value"))
        return f"map of {_type(key)} to {_type(value)}"
    kind = message or field.enum_type
    scalar = FieldDescriptorProto.Type.Name(field.type)  # type: ignore[arg-type]
    name = _link(kind) if kind is not None else scalar.removeprefix("TYPE_").lower()
    if field.is_repeated:
        return f"repeated {name}"
    # `optional` is a oneof of one field, whose name protoc begins with an underscore.
    choice = field.containing_oneof
    return f"optional {name}" if choice is not None and choice.name[0] == "_" else name


def _bounds(rules: Any) -> str:
    """Return the rules of a field in words; empty if it has none."""
    words = ["required"] if rules.required else []
    kind = rules.WhichOneof("type")
    if kind is not None:
        words.append(_limits(getattr(rules, kind)))
        if kind == "repeated" and rules.repeated.HasField("items"):
            words.append(f"each {_bounds(rules.repeated.items)}")
    return ", ".join(words)


def _limits(rules: Any) -> str:
    if getattr(rules, "defined_only", False):
        return "a value of the enum"
    if getattr(rules, "finite", False):
        return "finite"
    low = high = None
    unit = ""
    for rule, value in rules.ListFields():
        side, _, named = rule.name.partition("_")
        if side == "items":
            continue
        assert side in ("gte", "min", "lte", "max"), f"{rule.full_name} has no words yet"
        if side in ("gte", "min"):
            low = value
        else:
            high = value
        unit = f" {named}" if named else ""
    if low is None:
        return f"at most {high:,}{unit}"
    return f"at least {low:,}{unit}" if high is None else f"{low:,} to {high:,}{unit}"


def _cell(text: str) -> str:
    """Return a comment as one line for a table cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in reference(FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())).items():
        path.write_text(text)
