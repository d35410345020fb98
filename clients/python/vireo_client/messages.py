"""The messages on the wire, by their names in the protos.

They are built from descriptors in this package instead of generated code, which supports few
versions of protobuf, and in a descriptor pool of their own, since the process may have other stubs
of the same protos or of google.rpc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vireo_client._generated.catalog_pb2 import *  # noqa: F403
    from vireo_client._generated.error_details_pb2 import *  # noqa: F403
    from vireo_client._generated.event_pb2 import *  # noqa: F403
    from vireo_client._generated.filter_pb2 import *  # noqa: F403
    from vireo_client._generated.recommendation_pb2 import *  # noqa: F403
    from vireo_client._generated.status_pb2 import *  # noqa: F403
else:
    from importlib import resources

    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    _pool = DescriptorPool()
    _packaged = resources.files("vireo_client._generated").joinpath("descriptors.binpb")
    for _file in FileDescriptorSet.FromString(_packaged.read_bytes()).file:
        _pool.AddSerializedFile(_file.SerializeToString())
        if _file.package in ("vireo.v1", "google.rpc"):
            for _kind in _file.message_type:
                _name = f"{_file.package}.{_kind.name}"
                globals()[_kind.name] = GetMessageClass(_pool.FindMessageTypeByName(_name))
