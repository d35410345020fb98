"""What a wheel has, without building one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protos.generate import GENERATED
from wheel_layout import lay_out, relocated

CHECKOUT = Path(__file__).parents[1]
STARTED_BY_NAME = re.compile(r"""['"](?:server|training|clients|bench)\.[\w{}.]+['"]""")
ONLY_IN_A_CHECKOUT = {"bench/speed/peer_chains.py", "bench/speed/peers.py"}
"""They run in environments that `make` makes."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel") / "vireo"
    lay_out(CHECKOUT, GENERATED, folder)
    return folder


def test_the_package_has_all_that_runs_and_no_figures_or_tests(package: Path) -> None:
    assert {each.name for each in package.iterdir()} == {
        *("server", "training", "clients", "bench", "envoy", "deploy", "inference", "buf", "v1"),
        *("__init__.py", "py.typed", "descriptors.binpb", "openapi.json"),
    }
    assert {each.name for each in (package / "clients").iterdir()} == {
        "backup",
        "cli",
        "doctor",
        "upgrades",
    }
    assert not (package / "bench" / "report").exists()
    assert (package / "training" / "profiles" / "demo.toml").exists()


def test_no_module_imports_ours_by_the_name_that_it_has_in_a_checkout(package: Path) -> None:
    old = re.compile(r"^\s*(?:from|import) (?:server|training|clients|bench|inference|buf)\b", re.M)
    for module in (*package.rglob("*.py"), *package.rglob("*.pyi")):
        assert not old.search(module.read_text()), module


def test_no_process_is_started_by_the_name_that_it_has_in_a_checkout(package: Path) -> None:
    for module in package.rglob("*.py"):
        if str(module.relative_to(package)) not in ONLY_IN_A_CHECKOUT:
            assert not STARTED_BY_NAME.search(module.read_text()), module


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from vireo.server.home import Home\n", "from vireo.server.home import Home\n"),
        ("from server import ranking\n", "from vireo.server import ranking\n"),
        ("import server\n", "import vireo.server as server\n"),
        ("import bench.load as load  # why\n", "import vireo.bench.load as load  # why\n"),
        ("def f():\n    from vireo.training.fit import (\n        fit,\n    )\n", None),
        ("from envoy.config.core.v3 import base_pb2\n", "as it was"),
        ("from serverless import server\nimport servers\n", "as it was"),
        ('"""from vireo.server.home import Home"""\n', "as it was"),
        ("from vireo.v1 import viewer_pb2\nfrom .server import x\n", "as it was"),
    ],
)
def test_imports_of_ours_are_relocated_and_nothing_else(source: str, expected: str | None) -> None:
    if expected is None:
        expected = source.replace("vireo.training.fit", "vireo.training.fit")
    assert relocated(source) == (source if expected == "as it was" else expected)


@pytest.mark.parametrize("source", ["import vireo.server.home\n", "from  server import home\n"])
def test_an_import_that_would_bind_another_name_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="import"):
        relocated(source)
