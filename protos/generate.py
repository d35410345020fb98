"""Generates Python stubs, their types and the descriptor set: `python -m protos.generate`.

The third-party protos that ours import (google.api, protovalidate) are taken from the
installed Python packages as descriptors, so that none of them is committed.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc_tools import protoc
from protovalidate import ViolationPb

SOURCES = Path(__file__).parent
GENERATED = SOURCES / "gen"
DESCRIPTOR_SET = GENERATED / "vireo" / "descriptors.binpb"

_IMPORTED = (
    "google.api.annotations_pb2",
    "google.protobuf.duration_pb2",
    "google.protobuf.field_mask_pb2",
    "google.protobuf.timestamp_pb2",
    "google.rpc.error_details_pb2",
    "google.rpc.status_pb2",
)
_VALIDATE = "buf/validate/validate.proto"


def _add(file: FileDescriptor, seen: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """Adds `file` and all it imports to `seen`, imports first."""
    if file.name in seen:
        return
    for dependency in file.dependencies:
        _add(dependency, seen)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    seen[file.name] = proto


def third_party_descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Descriptors of every third-party file that our protos or error details need."""
    seen: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for module in _IMPORTED:
        _add(import_module(module).DESCRIPTOR, seen)
    # protovalidate carries its descriptor in another protobuf runtime's types.
    seen[_VALIDATE] = descriptor_pb2.FileDescriptorProto.FromString(
        ViolationPb.desc().file.proto.to_binary()
    )
    return descriptor_pb2.FileDescriptorSet(file=seen.values())


def _run(arguments: list[str]) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protoc failed; its messages are above")


def generate() -> None:
    """Replaces `protos/gen/`: stubs, type stubs and `vireo/descriptors.binpb`.

    The descriptor set holds our files with comments, and all they import; Envoy's REST
    transcoder and `buf` read it. A process that runs meanwhile sees the old stubs or the new.
    """
    with tempfile.TemporaryDirectory(dir=SOURCES, prefix=".gen-") as scratch:
        fresh = Path(scratch) / "gen"
        _generate(fresh, Path(scratch) / "third_party.binpb")
        if GENERATED.exists():
            GENERATED.rename(Path(scratch) / "before")
        fresh.rename(GENERATED)


def _generate(folder: Path, imported: Path) -> None:
    """Writes everything below `folder`, and the descriptors it imports to `imported`."""
    ours = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.glob("vireo/**/*.proto"))
    (folder / "vireo" / "v1").mkdir(parents=True)
    imported.write_bytes(third_party_descriptors().SerializeToString())
    inputs = [f"--proto_path={SOURCES}", f"--descriptor_set_in={imported}", *ours]
    _run(
        [
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            f"--mypy_out=quiet:{folder}",
            f"--mypy_grpc_out=quiet:{folder}",
            *inputs,
            # Our stubs import it, and no installed package has it for this runtime.
            _VALIDATE,
        ]
    )
    _run(
        [
            f"--descriptor_set_out={folder / 'vireo' / DESCRIPTOR_SET.name}",
            "--include_imports",
            "--include_source_info",
            *inputs,
            # The transcoder needs these to show error details in REST answers.
            "google/rpc/error_details.proto",
            "google/rpc/status.proto",
        ]
    )
    for package in ("vireo", "vireo/v1", "buf", "buf/validate"):
        (folder / package / "__init__.py").write_text('"""Generated; do not edit."""\n')
        (folder / package / "py.typed").touch()


if __name__ == "__main__":
    generate()
