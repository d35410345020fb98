"""The wheel has what is generated, and building it changes nothing in the checkout."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from deploy.lock import ROOT
from tests.builders.environments import build_wheel

pytestmark = pytest.mark.slow


def generated() -> dict[Path, int]:
    """When each generated file of the checkout was written."""
    folders = ROOT / "protos" / "gen", ROOT / "clients" / "python" / "vireo_client" / "_generated"
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def test_building_a_wheel_changes_nothing_in_the_checkout_and_it_has_the_stubs(
    tmp_path: Path,
) -> None:
    before = generated()
    wheel = build_wheel(ROOT, tmp_path, isolated=True)
    assert generated() == before
    stubs = {
        f"vireo/{path.relative_to(ROOT / 'protos' / 'gen' / 'vireo')}"
        for path in before
        if path.is_file() and "protos" in path.parts and "__pycache__" not in path.parts
    }
    assert stubs <= set(zipfile.ZipFile(wheel).namelist())
