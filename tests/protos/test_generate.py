"""Stubs and descriptors are those of the protos in this checkout."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from protos.protoc import DESCRIPTOR_SET, SOURCES, our_protos


def built_descriptors() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())


def clear_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        clear_json_names(nested)


def test_the_stubs_are_those_of_the_protos_as_they_are_now(tmp_path: Path) -> None:
    output = tmp_path / "now.binpb"
    arguments = [
        "protoc",
        f"--proto_path={SOURCES}",
        f"--descriptor_set_in={DESCRIPTOR_SET}",
        f"--descriptor_set_out={output}",
        *our_protos(),
    ]
    assert protoc.main(arguments) == 0
    now = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
    for file in now.file:
        module = file.name.removesuffix(".proto").replace("/", ".").removeprefix("vireo.")
        stub = import_module(f"vireo.{module}_pb2")
        built = descriptor_pb2.FileDescriptorProto()
        stub.DESCRIPTOR.CopyToProto(built)
        # json_name is filled in by some paths and not by others.
        for proto in (built, file):
            for message in proto.message_type:
                clear_json_names(message)
        assert built == file, f"{file.name} changed since the stubs were made: run `make protos`"


def test_the_descriptor_set_holds_all_that_the_transcoder_needs() -> None:
    names = {file.name for file in built_descriptors().file}
    for file in built_descriptors().file:
        assert set(file.dependency) <= names, f"{file.name} imports what is not in the set"
    assert "google/rpc/error_details.proto" in names
