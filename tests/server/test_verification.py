"""Every bad release is found out from its folder alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.releases import layout
from server.releases.manifest import Manifest
from server.verification import verify_release
from tests.builders.bad_releases import BAD_RELEASES, BadRelease, bad_name
from tests.builders.releases import build_release


def test_nothing_is_wrong_with_a_good_release(tmp_path: Path) -> None:
    assert verify_release(build_release(tmp_path)) == ()


@pytest.mark.parametrize("bad", BAD_RELEASES, ids=bad_name)
def test_bad_release_is_found_out(tmp_path: Path, bad: BadRelease) -> None:
    problems = verify_release(bad.build(tmp_path / "bad", "bad"))
    assert problems
    if bad.described:
        assert [problem.part for problem in problems] == [bad.pod]
        assert re.search(bad.reason, problems[0].reason)


@pytest.mark.parametrize(
    ("name", "part", "reason"),
    [
        ("truncated_file", "files", r"ranker/1/model\.onnx has \d+ bytes, the manifest says \d+"),
        ("flipped_byte", "files", r"videos/vectors\.npy has another SHA-256 than the manifest"),
        ("missing_file", "files", r"golden/ranker\.npz is missing"),
        ("lie_about_a_size", "files", r"ranker/1/model\.onnx has \d+ bytes, the manifest says"),
        ("unknown_format", "manifest", "format_version is 99"),
    ],
)
def test_what_is_wrong_is_told_by_file_or_field(
    tmp_path: Path, name: str, part: str, reason: str
) -> None:
    [bad] = [bad for bad in BAD_RELEASES if bad.name == name]
    first = verify_release(bad.build(tmp_path / "bad", "bad"))[0]
    assert first.part == part
    assert re.search(reason, first.reason)


def test_all_that_is_wrong_is_listed(tmp_path: Path) -> None:
    folder = build_release(tmp_path)
    manifest = Manifest.read(folder)
    (folder / layout.VIDEO_KEYS).unlink()
    (folder / layout.POPULAR_IDS).write_text("{}")
    files = {path: entry for path, entry in manifest.files.items() if path != layout.RANKER}
    files["../up"] = manifest.files[layout.RANKER]
    manifest.model_copy(update={"files": files}).write(folder)
    found = [(problem.part, problem.reason) for problem in verify_release(folder)]
    assert [part for part, _ in found] == [*["files"] * 3, "candidate", "ranking", "gateway"]
    assert ("files", "../up leaves the release's folder") in found
    assert ("ranking", "the manifest lacks ranker/1/model.onnx") in found


def test_verification_needs_neither_training_nor_features() -> None:
    script = (
        "import sys, server.verification; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(ran.stdout.split()) & {"torch", "pandas", "feast", "training"}
