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
    """The files `roots` of a descriptor set and all that they import, imports first."""
    files = {file.name: file for file in described.file}
    found: dict[str, FileDescriptorProto] = {}
    for root in roots:
        _add(root, files, found)
    return FileDescriptorSet(file=found.values())


def _add(
    name: str, files: dict[str, FileDescriptorProto], found: dict[str, FileDescriptorProto]
) -> None:
    if name in found:
        return
    file = FileDescriptorProto()
    file.CopyFrom(files[name])
    file.ClearField("source_code_info")
    if not name.startswith("google/"):
        _clear_options(file)
    imported = [each for each in file.dependency if each not in _ONLY_OPTIONS]
    file.dependency[:] = imported
    for each in imported:
        _add(each, files, found)
    found[name] = file


def _clear_options(message: Message) -> None:
    """Clears the options of a descriptor and of all within it; a map stays a map."""
    for field, value in message.ListFields():
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
