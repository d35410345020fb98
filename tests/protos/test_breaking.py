"""`make breaking` stops what callers of the API as it was can't take, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from protos.protoc import DESCRIPTOR_SET, SOURCES, our_protos

CHECKOUT = SOURCES.parent
Change = tuple[str, str, str]
"""A file without its suffix, what it says, and what it says instead."""

INCOMPATIBLE: dict[str, Change] = {
    "a field removed": ("vireo/v1/recommendation", "  bool explain = 7;\n", ""),
    "a field's number": ("vireo/v1/recommendation", "bool explain = 7;", "bool explain = 70;"),
    "an enum's value removed": ("vireo/v1/recommendation", "  SURFACE_UP_NEXT = 2;\n", ""),
    "a service's name": ("vireo/v1/candidate", "service CandidateService", "service Candidates"),
    "the public protocol": ("inference/open_inference", "string model_name = 1", "string of = 1"),
}
COMPATIBLE: dict[str, Change] = {
    "a new field": (
        "vireo/v1/recommendation",
        "bool explain = 7;",
        "bool explain = 7; bool terse = 90;",
    ),
    "another rule": ("vireo/v1/ranking", "max_items: 2000", "max_items: 3000"),
    "another comment": ("vireo/v1/ranking", "// Video keys", "// Keys of videos"),
}


def breaking(change: Change, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `make breaking` on a copy of the protos with one change."""
    copy = folder / "protos"
    for name in our_protos():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCES / name, copy / name)
    changed, before, after = change
    path = copy / f"{changed}.proto"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))

    ours = set(our_protos())
    built = FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())
    imported = FileDescriptorSet(file=[file for file in built.file if file.name not in ours])
    (folder / "imported.binpb").write_bytes(imported.SerializeToString())
    changed_set = folder / "changed.binpb"
    arguments = [
        "protoc",
        f"--proto_path={copy}",
        f"--descriptor_set_in={folder / 'imported.binpb'}",
        f"--descriptor_set_out={changed_set}",
        "--include_imports",
        "--include_source_info",
        *our_protos(),
    ]
    assert protoc.main(arguments) == 0
    # With the tools of this environment, which is up to date: that is not what is tested.
    make = ["make", "--old-file=setup", "breaking", f"DESCRIPTORS={changed_set}"]
    return subprocess.run(
        [*make, f"BIN={Path(sys.executable).parent}"], cwd=CHECKOUT, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", INCOMPATIBLE)
def test_an_incompatible_change_is_rejected_with_its_file(name: str, tmp_path: Path) -> None:
    done = breaking(INCOMPATIBLE[name], tmp_path)
    assert done.returncode != 0
    assert f"{INCOMPATIBLE[name][0]}.proto" in done.stdout + done.stderr


@pytest.mark.parametrize("name", COMPATIBLE)
def test_a_compatible_change_passes(name: str, tmp_path: Path) -> None:
    done = breaking(COMPATIBLE[name], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
