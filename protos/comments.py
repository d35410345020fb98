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
"""Field number of a message's fields, an enum's values, or a service's methods."""
NESTED_MESSAGES, NESTED_ENUMS, ONEOFS = 3, 4, 8
"""Field numbers of declarations within a message."""


class Comments:
    """The comments of one file, by path."""

    def __init__(self, file: FileDescriptorProto) -> None:
        """Read the comments of a file with source info."""
        self._texts = {
            tuple(place.path): place.leading_comments for place in file.source_code_info.location
        }

    def of(self, *path: int) -> str:
        """Return the leading comment of an element, without indentation; empty if there is none.

        Args:
            path: field numbers and indexes of the element, for example `MESSAGES, 0, MEMBERS, 3`;
                `SYNTAX` for the file's own comment.
        """
        lines = self._texts.get(path, "").split("\n")
        return "\n".join(line.removeprefix(" ") for line in lines).strip()


def comments_by_name(described: FileDescriptorSet) -> dict[str, str]:
    """Return the comment of every element by its full name; empty if it has none.

    The name of an enum's value includes the enum: `vireo.v1.Surface.SURFACE_HOME`. A file's name is
    its path. Generated elements, such as entries of maps, are left out.
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
