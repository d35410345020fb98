"""Generates what clients/python has from the protos: `python -m protos.python_client`.

The descriptors of the messages that it sends and gets, type stubs for them, and its enums. All of
it without rules and REST bindings, so that the client needs neither protovalidate nor google.api.
Beside them lies the table of retries, which the clients of all languages share.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import EnumDescriptorProto, FileDescriptorSet

from protos.contract import comments_by_name
from protos.protoc import SOURCES, describe, run_protoc
from protos.wire import wire_descriptors

FOLDER = SOURCES.parent / "clients" / "python" / "vireo_client" / "_generated"
_RETRIES = SOURCES.parent / "clients" / "retries.json"

_ROOTS = (
    "vireo/v1/recommendation.proto",
    "vireo/v1/event.proto",
    "vireo/v1/catalog.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)
_PACKAGE = "vireo_client/_generated"
_ENUMS = ("vireo/v1/recommendation.proto", "vireo/v1/viewer.proto", "vireo/v1/event.proto")
_ANSWERED = {"Source", "Degradation", "LostAt"}
"""Enums in answers, where a server may send a value that an older client doesn't know."""


def generate_client(folder: Path = FOLDER) -> None:
    """Replace `folder` by what the protos say now."""
    with tempfile.TemporaryDirectory(dir=SOURCES, prefix=".gen-") as name:
        scratch = Path(name)
        (scratch / "out").mkdir()
        describe(scratch / "described.binpb", scratch / "imported.binpb")
        described = FileDescriptorSet.FromString((scratch / "described.binpb").read_bytes())
        descriptors = _moved(wire_descriptors(described, _ROOTS))
        fresh = scratch / "out" / _PACKAGE
        fresh.mkdir(parents=True)
        (fresh / "descriptors.binpb").write_bytes(descriptors.SerializeToString())
        run_protoc(
            f"--descriptor_set_in={fresh / 'descriptors.binpb'}",
            f"--mypy_out=quiet:{scratch / 'out'}",
            *(file.name for file in descriptors.file if file.name.startswith(_PACKAGE)),
        )
        (fresh / "__init__.py").write_text('"""Generated; do not edit."""\n')
        (fresh / "enums.py").write_text(_enums(described))
        shutil.copy(_RETRIES, fresh)
        if folder.exists():
            shutil.rmtree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(fresh, folder)


def _moved(descriptors: FileDescriptorSet) -> FileDescriptorSet:
    """The same files under names that their stubs, in the client's package, are imported by."""

    def moved(name: str) -> str:
        if name.startswith("google/protobuf/"):
            return name
        return f"{_PACKAGE}/{name.rpartition('/')[2]}"

    for file in descriptors.file:
        file.name = moved(file.name)
        file.dependency[:] = [moved(each) for each in file.dependency]
    return descriptors


def _enums(described: FileDescriptorSet) -> str:
    """A module with an enum of strings for each enum, and its values by their numbers."""
    parts = ['"""Generated from the protos; do not edit."""\n\nfrom enum import StrEnum\n']
    comments = comments_by_name(described)
    for file in described.file:
        if file.name in _ENUMS:
            parts += [_enum(each, file.package, comments) for each in file.enum_type]
    return "\n\n".join(parts)


def _enum(enum: EnumDescriptorProto, package: str, comments: Mapping[str, str]) -> str:
    name_in_full = f"{package}.{enum.name}"
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
    lines = [f"class {enum.name}(StrEnum):", _docstring(comments[name_in_full]), ""]
    if enum.name in _ANSWERED:
        lines += ['    UNKNOWN = "unknown"', _docstring("One that this client is too old to know.")]
    numbers = []
    for value in enum.value:
        if value.number == 0:  # not set
            continue
        name = value.name.removeprefix(prefix)
        lines += [
            f'    {name} = "{name.lower()}"',
            _docstring(comments[f"{name_in_full}.{value.name}"]),
        ]
        numbers.append(f"    {value.number}: {enum.name}.{name},")
    table = f"{prefix}NUMBERS: dict[int, {enum.name}] = {{"
    return "\n".join([*lines, "", "", table, *numbers, "}", ""])


def _docstring(text: str) -> str:
    text = text.replace("\\", r"\\").replace('"""', r"\"\"\"").replace("\n", "\n    ")
    return f'    """{text}"""'


if __name__ == "__main__":
    generate_client()
