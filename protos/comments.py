"""The comments of a proto file, by the element that each is about."""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

# Numbers of what is declared, in the descriptor that declares it.
MESSAGES, ENUMS, SERVICES, SYNTAX = 4, 5, 6, 12
MEMBERS = 2
"""Of a message its fields, of an enum its values, of a service its methods."""
NESTED_MESSAGES, NESTED_ENUMS, ONEOFS = 3, 4, 8
"""Of a message, what is declared within it."""


class Comments:
    """What the comments of one file say."""

    def __init__(self, file: FileDescriptorProto) -> None:
        """Takes the file, with its source info."""
        self._texts = {
            tuple(place.path): place.leading_comments for place in file.source_code_info.location
        }

    def of(self, *path: int) -> str:
        """The comment before an element, without indentation; empty where there is none.

        Args:
            path: numbers and indexes that lead there, for example `MESSAGES, 0, MEMBERS, 3`;
                `SYNTAX` for what is said of the file.
        """
        lines = self._texts.get(path, "").split("\n")
        return "\n".join(line.removeprefix(" ") for line in lines).strip()


def comments_by_name(described: FileDescriptorSet) -> dict[str, str]:
    """The comment of every element by its full name; empty where it has none.

    An enum's value is named after its enum: `vireo.v1.Surface.SURFACE_HOME`. A file goes by its
    path. What protoc makes itself, entries of maps and the like, is left out.
    """
    found: dict[str, str] = {}
    for file in described.file:
        comments = Comments(file)
        found[file.name] = comments.of(SYNTAX)
        for place, message in enumerate(file.message_type):
            _add_message(found, comments, file.package, message, (MESSAGES, place))
        for place, enum in enumerate(file.enum_type):
            _add_enum(found, comments, file.package, enum, (ENUMS, place))
        for place, service in enumerate(file.service):
            name = f"{file.package}.{service.name}"
            found[name] = comments.of(SERVICES, place)
            for number, method in enumerate(service.method):
                found[f"{name}.{method.name}"] = comments.of(SERVICES, place, MEMBERS, number)
    return found


def _add_message(
    found: dict[str, str],
    comments: Comments,
    scope: str,
    message: DescriptorProto,
    path: tuple[int, ...],
) -> None:
    if message.options.map_entry:
        return
    name = f"{scope}.{message.name}"
    found[name] = comments.of(*path)
    for place, field in enumerate(message.field):
        found[f"{name}.{field.name}"] = comments.of(*path, MEMBERS, place)
    optional = {field.oneof_index for field in message.field if field.proto3_optional}
    for place, choice in enumerate(message.oneof_decl):
        if place not in optional:
            found[f"{name}.{choice.name}"] = comments.of(*path, ONEOFS, place)
    for place, nested in enumerate(message.nested_type):
        _add_message(found, comments, name, nested, (*path, NESTED_MESSAGES, place))
    for place, enum in enumerate(message.enum_type):
        _add_enum(found, comments, name, enum, (*path, NESTED_ENUMS, place))


def _add_enum(
    found: dict[str, str],
    comments: Comments,
    scope: str,
    enum: EnumDescriptorProto,
    path: tuple[int, ...],
) -> None:
    name = f"{scope}.{enum.name}"
    found[name] = comments.of(*path)
    for place, value in enumerate(enum.value):
        found[f"{name}.{value.name}"] = comments.of(*path, MEMBERS, place)
