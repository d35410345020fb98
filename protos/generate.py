"""Generates Python stubs, their types and the descriptor set: `python -m protos.generate`.

And what the Python client has of them, see `protos/python_client.py`.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from protos.openapi import openapi
from protos.protoc import (
    DESCRIPTOR_SET,
    GENERATED,
    SOURCES,
    VALIDATE,
    describe,
    run_on_protos,
)
from protos.python_client import generate_client

OPENAPI = GENERATED / "vireo" / "openapi.json"
_OUTSIDE = re.compile(r"^(from |import )(inference|buf)(?=[. ])", re.M)
"""Imports of packages that protoc names by the folders of their protos; ours lie below `vireo`."""


def generate() -> None:
    """Replace `protos/gen/`: stubs, type stubs, `vireo/descriptors.binpb`, `vireo/openapi.json`.

    The descriptor set holds our files with comments, and all they import; Envoy's REST
    transcoder and `buf` read it. The edge shows the OpenAPI document. A process that runs
    meanwhile sees the old stubs or the new.
    """
    with tempfile.TemporaryDirectory(dir=SOURCES, prefix=".gen-") as scratch:
        fresh = Path(scratch) / "gen"
        generate_into(fresh)
        if GENERATED.exists():
            GENERATED.rename(Path(scratch) / "before")
        fresh.rename(GENERATED)


def generate_into(folder: Path) -> None:
    """Write everything to a new folder, and the descriptors that it imports beside that."""
    folder.mkdir()
    imported = folder.with_name("third_party.binpb")
    run_on_protos(
        imported,
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"--mypy_out=quiet:{folder}",
        f"--mypy_grpc_out=quiet:{folder}",
        # Our stubs import it, and no installed package has it for this runtime.
        VALIDATE,
    )
    descriptors = folder / "vireo" / DESCRIPTOR_SET.name
    describe(descriptors, imported)
    document = openapi(FileDescriptorSet.FromString(descriptors.read_bytes()))
    (folder / "vireo" / OPENAPI.name).write_text(json.dumps(document, indent=1) + "\n")
    for package in ("inference", "buf"):
        (folder / package).rename(folder / "vireo" / package)
    for module in (*folder.rglob("*.py"), *folder.rglob("*.pyi")):
        module.write_text(_OUTSIDE.sub(r"\1vireo.\2", module.read_text()))
    for package in ("v1", "inference", "buf", "buf/validate"):
        (folder / "vireo" / package / "__init__.py").write_text('"""Generated; do not edit."""\n')


if __name__ == "__main__":
    generate()
    generate_client()
