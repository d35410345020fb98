"""Reflection, v1 and v1alpha: our services' descriptors with the JSON names of fields.

The descriptors inside Python's stubs lack JSON names, so that a client which prints JSON by
reflection, grpcurl for example, would name fields differently than REST does.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import _async as reflection
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from vireo.server.rpc.transport import Methods

_ALPHA = "grpc.reflection.v1alpha"
_V1 = "grpc.reflection.v1"
_SERVICE = "ServerReflection"


def add_reflection(
    methods: Methods, services: Iterable[str], files: Iterable[FileDescriptor]
) -> None:
    """Add both versions of reflection to a server, which have one servicer.

    Args:
        methods: adds to the server.
        services: full names of its services except reflection.
        files: the protos that define them, if they aren't ours.
    """
    pool = descriptor_pool(*files, reflection_pb2.DESCRIPTOR)
    pool.AddSerializedFile(v1_file())
    names = [*services, f"{_ALPHA}.{_SERVICE}", f"{_V1}.{_SERVICE}"]
    servicer = reflection.ReflectionServicer(names, pool=pool)  # type: ignore[no-untyped-call]
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, methods)  # type: ignore[no-untyped-call]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods.add_registered_method_handlers(f"{_V1}.{_SERVICE}", {"ServerReflectionInfo": method})


def v1_file() -> bytes:
    """Return the proto of v1, which Python's package lacks: v1alpha's with other names."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    renamed = text_format.MessageToString(alpha).replace(_ALPHA, _V1)
    file = text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
    file.name = "grpc/reflection/v1/reflection.proto"
    return file.SerializeToString()


def descriptor_pool(*others: FileDescriptor) -> DescriptorPool:
    """Return a pool of our protos, of `others`, and of all that these import."""
    packaged = importlib.resources.files("vireo") / "descriptors.binpb"
    described = descriptor_pb2.FileDescriptorSet.FromString(packaged.read_bytes()).file
    files = {file.name: file.SerializeToString() for file in described}
    for other in others:
        _add(other, files)
    pool = DescriptorPool()
    for file in files.values():
        pool.AddSerializedFile(file)
    return pool


def _add(file: FileDescriptor, files: dict[str, bytes]) -> None:
    """Add a file to `files` unless it is there, after all that it imports."""
    if file.name not in files:
        for imported in file.dependencies:
            _add(imported, files)
        files[file.name] = file.serialized_pb
