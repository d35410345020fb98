"""The comments of protos, by the element that each is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet


def comments_by_name(described: FileDescriptorSet) -> defaultdict[str, str]:
    """Return the leading comments of elements by full name; empty for those that have none.

    The name of an enum's value includes the enum: `vireo.v1.Surface.SURFACE_HOME`. A file's name is
    its path.
    """
    found = defaultdict[str, str](str)
    for file in described.file:
        for place in file.source_code_info.location:
            lines = place.leading_comments.split("\n")
            if text := "\n".join(line.removeprefix(" ") for line in lines).strip():
                found[_full_name(file, place.path)] = text
    return found


def _full_name(file: FileDescriptorProto, path: Sequence[int]) -> str:
    """Return the name of the element at a path of field numbers and indexes, as protoc gives it."""
    if len(path) % 2:
        return file.name  # its syntax, above which a file's own comment is
    names, element = [file.package], file
    for number, index in zip(path[::2], path[1::2], strict=True):
        fields: Any = element.DESCRIPTOR.fields_by_number
        element = getattr(element, fields[number].name)[index]
        names.append(element.name)
    return ".".join(names)
