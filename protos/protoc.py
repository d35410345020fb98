"""Runs protoc on our protos, with what they import from other projects.

The third-party protos that ours import (google.api, protovalidate) are taken from the
installed Python packages as descriptors, so that none of them is committed.
"""

from __future__ import annotations

import os
import sysconfig
from importlib import import_module
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from protovalidate import ViolationPb

SOURCES = Path(__file__).parent
GENERATED = SOURCES / "gen"
DESCRIPTOR_SET = GENERATED / "vireo" / "descriptors.binpb"
VALIDATE = "buf/validate/validate.proto"

_IMPORTED = (
    "google.api.annotations_pb2",
    "google.protobuf.duration_pb2",
    "google.protobuf.field_mask_pb2",
    "google.protobuf.timestamp_pb2",
    "google.rpc.error_details_pb2",
    "google.rpc.status_pb2",
)


def our_protos() -> list[str]:
    """Paths below SOURCES of every proto of this checkout."""
    return sorted(
        str(path.relative_to(SOURCES))
        for package in ("inference", "vireo")
        for path in SOURCES.glob(f"{package}/**/*.proto")
    )


def run_protoc(*arguments: str) -> None:
    """Run protoc, which says itself what is wrong; raise SystemExit if anything is."""
    # It finds its plugins there. When a package is built, those of the build come first.
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join((path, sysconfig.get_path("scripts")))
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protoc failed; its messages are above")


def run_on_protos(imported: Path, *arguments: str) -> None:
    """Run protoc on our protos; write the descriptors that they import to `imported`."""
    imported.write_bytes(_third_party().SerializeToString())
    run_protoc(
        f"--proto_path={SOURCES}", f"--descriptor_set_in={imported}", *arguments, *our_protos()
    )


def describe(output: Path, imported: Path) -> None:
    """Write our protos' descriptors with comments, and those of all they import, to `output`."""
    run_on_protos(
        imported,
        f"--descriptor_set_out={output}",
        "--include_imports",
        "--include_source_info",
        # Envoy's transcoder needs these to show error details in REST answers.
        "google/rpc/error_details.proto",
        "google/rpc/status.proto",
    )
    # protoc prefers the well-known types beside the Python that runs it, with Debian's Python and
    # libprotobuf-dev those of another version, to the installed package's.
    package = FileDescriptorSet.FromString(imported.read_bytes()).file
    known = {each.name: each for each in package if each.name.startswith("google/protobuf/")}
    described = FileDescriptorSet.FromString(output.read_bytes())
    files = [known.get(each.name, each) for each in described.file]
    output.write_bytes(FileDescriptorSet(file=files).SerializeToString())


def _third_party() -> FileDescriptorSet:
    """Descriptors of every third-party file that our protos or error details need."""
    seen: dict[str, FileDescriptorProto] = {}
    for module in _IMPORTED:
        _add(import_module(module).DESCRIPTOR, seen)
    # protovalidate carries its descriptor in another protobuf runtime's types.
    seen[VALIDATE] = FileDescriptorProto.FromString(ViolationPb.desc().file.proto.to_binary())
    return FileDescriptorSet(file=seen.values())


def _add(file: FileDescriptor, seen: dict[str, FileDescriptorProto]) -> None:
    """Add `file` and all it imports to `seen`, imports first."""
    if file.name in seen:
        return
    for dependency in file.dependencies:
        _add(dependency, seen)
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    seen[file.name] = proto
