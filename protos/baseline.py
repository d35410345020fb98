"""Writes protos/baseline.json, the API that must not break: `python -m protos.baseline`.

`make breaking` holds the protos to it, and `make protos-baseline` takes them as they are now.
"""

from __future__ import annotations

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import MessageToJson

from protos.generate import DESCRIPTOR_SET
from protos.protoc import SOURCES
from protos.wire import wire_descriptors

BASELINE = SOURCES / "baseline.json"


def baseline() -> str:
    """The API as it is now: an image that `buf breaking` takes, and a person can compare."""
    described = FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())
    ours = [file.name for file in described.file if file.name.startswith("vireo/")]
    return MessageToJson(wire_descriptors(described, ours)) + "\n"


if __name__ == "__main__":
    BASELINE.write_text(baseline())
