"""What reflection tells of our services: their descriptors with the JSON names of fields.

The descriptors inside Python's stubs lack JSON names, so that a client which prints JSON by
reflection, grpcurl say, would name fields otherwise than REST does.
"""

from __future__ import annotations

import importlib.resources

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool


def descriptor_pool(*others: FileDescriptor) -> DescriptorPool:
    """A pool of our protos, of `others`, and of all that these import."""
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
    """Adds a file to `files` unless it is there, after all that it imports."""
    if file.name not in files:
        for imported in file.dependencies:
            _add(imported, files)
        files[file.name] = file.serialized_pb
