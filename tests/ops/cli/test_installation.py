"""An installation that doesn't fit is reported in a sentence, with what mends it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from vireo.ops.cli.installation import check_stubs, import_failure
from vireo.server.errors import VireoError

OLD_GRPC = "import grpc; grpc.__version__ = '1.2.3'\n"
OLD_PROTOBUF = "from google.protobuf import runtime_version; runtime_version.MAJOR = 6\n"
NO_MODULE = "import sys; sys.modules['grpc'] = None\n"


def run_vireo(start: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a Python that starts otherwise than it is installed."""
    (folder / "sitecustomize.py").write_text(start)
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "vireo.ops.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (OLD_GRPC, "The grpc package installed is at version 1.2.3"),
        (OLD_PROTOBUF, "runtime 6."),
        (NO_MODULE, "import of grpc halted"),
    ],
    ids=["an older grpcio", "an older protobuf", "a package that can't be imported"],
)
def test_packages_that_do_not_fit_are_one_line(start: str, words: str, tmp_path: Path) -> None:
    done = run_vireo(start, tmp_path, "recommend", "1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the installed packages don't fit")
    assert words in done.stderr
    assert re.search("; (run: make -B -C .+ setup|install it again: pip .+)\n$", done.stderr)
    assert done.stderr.count("\n") == 1


def test_the_traceback_is_shown_if_it_is_asked_for(tmp_path: Path) -> None:
    done = run_vireo(OLD_GRPC, tmp_path, "--traceback", "recommend", "1")
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: The grpc package")


def test_stubs_that_are_missing_or_older_than_a_proto_are_reported(tmp_path: Path) -> None:
    (tmp_path / "Makefile").touch()
    proto = tmp_path / "protos" / "vireo" / "v1" / "slate.proto"
    proto.parent.mkdir(parents=True)
    proto.touch()
    with pytest.raises(VireoError, match=r"stubs of .* are missing; run: make -B -C .* setup"):
        check_stubs(tmp_path)
    made = tmp_path / "protos" / "gen" / "vireo" / "descriptors.binpb"
    made.parent.mkdir(parents=True)
    made.touch()
    os.utime(proto, (1, 1))
    check_stubs(tmp_path)
    os.utime(made, (0, 0))
    with pytest.raises(VireoError, match=r"older than protos/vireo/v1/slate\.proto"):
        check_stubs(tmp_path)


def test_a_wheel_is_told_to_be_installed_again_and_a_missing_extra_by_its_name(
    tmp_path: Path,
) -> None:
    check_stubs(tmp_path)
    broken = ImportError("cannot import name 'Slate'")
    assert "pip install --force-reinstall vireo==" in str(import_failure(broken, tmp_path))
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert import_failure(missing, tmp_path) == (
        "this command needs torch; install it with: pip install 'vireo[training]'"
    )
    assert import_failure(ValueError("a bug"), tmp_path) is None
