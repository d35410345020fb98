"""The protos as they are on the wire: names, numbers and types.

Without comments, and ours without rules and REST bindings, so that nothing needs the files which
declare those. `python -m protos.wire` writes protos/baseline.json, the API that must not break:
`make breaking` holds the protos to it, and `make protos-baseline` takes them as they are now.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from protos.protoc import DESCRIPTOR_SET, SOURCES

BASELINE = SOURCES / "baseline.json"
_ONLY_OPTIONS = {"buf/validate/validate.proto", "google/api/annotations.proto"}


def wire_descriptors(described: FileDescriptorSet, roots: Iterable[str]) -> FileDescriptorSet:
    """The files `roots` of a descriptor set and all that they import, imports first as there."""
    wanted, found = set(roots), FileDescriptorSet()
    for each in reversed(described.file):
        if each.name in wanted:
            file = FileDescriptorProto()
            file.CopyFrom(each)
            file.ClearField("source_code_info")
            if not file.name.startswith("google/"):
                _clear_options(file)
            file.dependency[:] = [name for name in file.dependency if name not in _ONLY_OPTIONS]
            wanted.update(file.dependency)
            found.file.insert(0, file)
    return found


def _clear_options(message: Message) -> None:
    """Clears the options of a descriptor and of all within it; a map stays a map.

    A file keeps its own: they say by what names packages of other languages import it.
    """
    for field, value in message.ListFields():
        if field.name == "options" and isinstance(message, FileDescriptorProto):
            continue
        if field.name == "options":
            is_map = getattr(value, "map_entry", False)
            value.Clear()
            if is_map:
                value.map_entry = True
            else:
                message.ClearField("options")
        elif field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                _clear_options(each)


def baseline() -> str:
    """The API as it is now: an image that `buf breaking` takes, and a person can compare."""
    described = FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())
    ours = [file.name for file in described.file if file.name.startswith(("vireo/", "inference/"))]
    return MessageToJson(wire_descriptors(described, ours)) + "\n"


if __name__ == "__main__":
    BASELINE.write_text(baseline())
