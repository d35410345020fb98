"""Our protos as built: descriptors, comments, rules and REST bindings, by full names.

Everything comes from the descriptor set, so that it can be read before any stub is there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass


class Contract:
    """Our packages in a descriptor set: services, rules and comments."""

    def __init__(self, described: FileDescriptorSet) -> None:
        """Read a descriptor set that includes comments and imports."""
        self.described = described
        self.comments = comments_by_name(described)
        """Comments by full name; see `comments_by_name`."""
        self._pool = DescriptorPool()
        for file in described.file:
            self._pool.AddSerializedFile(file.SerializeToString())

    def files(self, package: str) -> list[FileDescriptor]:
        """Return the files of a package."""
        return [
            self._pool.FindFileByName(file.name)
            for file in self.described.file
            if file.package == package
        ]

    def services(self, package: str) -> list[ServiceDescriptor]:
        """Return the services of a package, in the order of files and declarations."""
        return [
            service for file in self.files(package) for service in file.services_by_name.values()
        ]

    def rules(self, field: FieldDescriptor) -> Any:
        """Return a field's buf.validate.FieldRules; empty if it has none."""
        return self._option("FieldOptions", "buf.validate.field", field)

    def message_rules(self, message: Descriptor) -> list[str]:
        """Return the messages of a message's rules over several fields."""
        found = self._option("MessageOptions", "buf.validate.message", message)
        return [rule.message for rule in found.cel]

    def bindings(self, method: MethodDescriptor) -> list[Any]:
        """A method's google.api.HttpRules, the additional ones last; none where REST lacks it."""
        rule = self._option("MethodOptions", "google.api.http", method)
        if rule.WhichOneof("pattern") is None:
            return []
        return [rule, *rule.additional_bindings]

    @cached_property
    def _any_options(self) -> dict[str, Any]:
        return {
            name: GetMessageClass(self._pool.FindMessageTypeByName(f"google.protobuf.{name}"))
            for name in ("FieldOptions", "MessageOptions", "MethodOptions")
        }

    def _option(self, kind: str, extension: str, element: Any) -> Any:
        """An option of ours; read by classes of the same pool, which know the extension."""
        options = self._any_options[kind].FromString(element.GetOptions().SerializeToString())
        return options.Extensions[self._pool.FindExtensionByName(extension)]


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
