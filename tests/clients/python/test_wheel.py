"""The client as its users have it: a wheel in an environment of its own, asking a whole stack."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.builders.environments import (
    CONSTRAINTS,
    build_sdist,
    build_wheel,
    new_environment,
    pip_of,
)
from tests.builders.stack import Stack

PACKAGE = Path(__file__).parents[3] / "clients" / "python"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("client-wheel"),  # one build, one stack
]


def run(*command: str | Path, code: int = 0) -> str:
    """Run a command that must exit with `code`; return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=840)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the checkout."""
    folder = tmp_path_factory.mktemp("client")
    return build_wheel(build_sdist(PACKAGE, folder / "sdist"), folder / "wheel", isolated=True)


@pytest.fixture(scope="module", params=["oldest", "newest"])
def python(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Python where the wheel is installed, and nothing but what it asks for: at either end."""
    folder, constraints = tmp_path_factory.mktemp(request.param), CONSTRAINTS
    if request.param == "oldest":
        asked = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["dependencies"]
        constraints = folder / "oldest.txt"
        constraints.write_text(re.sub(r">=([\d.]+),.*", r"==\1", "\n".join(asked)))
    return new_environment(folder / "environment", str(wheel), constraints)


@pytest.fixture(scope="module")
def stack(tiny_stack: Stack) -> Stack:
    return tiny_stack


def test_it_brings_nothing_but_grpc_and_protobuf(python: Path) -> None:
    listed = json.loads(run(*pip_of(python, "list"), "--format=json"))
    names = {each["name"].lower().replace("_", "-") for each in listed}
    # typing-extensions is grpcio's own, from some version on.
    assert names - {"pip", "setuptools", "typing-extensions"} == {
        "vireo-client",
        "grpcio",
        "protobuf",
    }
    run(*pip_of(python, "check"))


def test_the_readmes_examples_run(python: Path, stack: Stack) -> None:
    # A busy machine may take longer than a reader's.
    text = (PACKAGE / "README.md").read_text().replace("timeout=0.5", "timeout=60")
    text = text.replace('"127.0.0.1:8080")', f'"{stack.edge}", timeout=60)')
    text = text.replace("127.0.0.1:8080", stack.edge)
    text = text.replace("old-1", "new-1")  # so that the next environment's slates lack it
    sync, asynchronous, filters, context, explained, batch, profile, events, sender, fake = (
        re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    )
    # The tiny stack has other videos than MovieLens.
    filters, explained = (
        re.sub(r'"(?:50|1(.).)"', r'"video-1\1"', text) for text in (filters, explained)
    )
    printed = run(python, "-c", sync).splitlines()
    assert len(printed) == 11
    assert re.fullmatch(r"1 (video-\d+) 0\.\d+ Title of \1", printed[0])
    assert printed[10].startswith("page_size must be")
    assert run(python, "-c", asynchronous).split() == ["10"] * 3
    *pages, alike, first = run(python, "-c", filters).splitlines()
    assert pages
    assert alike.count("video-") == 5
    assert re.fullmatch(r"video-\d+", first)
    assert run(python, "-c", context).split()
    assert run(python, "-c", explained).split()
    assert [line[0] for line in run(python, "-c", batch).splitlines()] == ["1", "2", "3"]
    assert re.fullmatch(r"video-\d+\n", run(python, "-c", profile))
    assert run(python, "-c", events) == "", "all is recorded"
    assert run(python, "-c", sender) == ""
    assert "UNAVAILABLE" in run(python, "-c", fake)


def test_many_calls_at_once_end_as_they_should(python: Path, stack: Stack) -> None:
    run(python, Path(__file__).with_name("concurrent_calls.py"), stack.edge)


@pytest.mark.parametrize("python", ["newest"], indirect=True)
def test_it_is_typed(python: Path, tmp_path: Path) -> None:
    right = tmp_path / "right.py"
    right.write_text(
        "from vireo_client import AsyncClient, Client, Slate, Source\n"
        "def ask(client: Client) -> Slate:\n"
        "    return client.recommend('1', page_size=10, timeout=0.5)\n"
        "async def source(client: AsyncClient) -> Source:\n"
        "    return (await client.recommend('1')).items[0].sources[0]\n"
    )
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from vireo_client import AsyncClient, Client\n"
        "Client('here').recommend(1)\n"
        "async def ask(client: AsyncClient) -> str:\n"
        "    return await client.recommend('1')\n"
    )
    cache = tmp_path / "cache"
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}"]
    run(*mypy, f"--python-executable={python}", right)
    found = run(*mypy, f"--python-executable={python}", wrong, code=1)
    assert re.findall(r"wrong.py:(\d+): error.*\[(.*)\]", found) == [
        ("2", "arg-type"),
        ("4", "return-value"),
    ]
