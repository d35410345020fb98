"""Every shell block of a page runs as it stands, in the page's order, after the demo.

A block that needs more is marked above its fence, as a comment that readers don't see:

- `<!-- not run: REASON -->`, for one of the reasons below;
- `<!-- exits with N -->`, if it is there to show how something fails; curl's code is 22 then;
- `<!-- first terminal -->`, for what a stack is started with that the next blocks are for;
- `<!-- tab: NAME -->`, if the site shows it beside its neighbours.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import CHECKOUT
from tests.builders.secured_stack import ONE_POD_EACH
from tests.builders.stack import Stack, running_stack
from vireo.server.home import Home

REASONS = {
    "a cluster": "needs Kubernetes",
    "another host": "needs a server elsewhere, or its password",
    "another program": "needs what Vireo doesn't install",
    "another stack": "starts one, and the reader's runs",
    "images": "builds or runs container images",
    "minutes": "takes more than one",
    "root": "changes the machine",
    "until Ctrl-C": "shows what happens until it is ended",
}
TESTED_ELSEWHERE = {
    "README.md",  # test_readme.py
    "docs/grpcurl.md",  # tests/docs/test_grpcurl.py
    "docs/inference-protocol.md",  # the same
    "docs/rotation.md",  # tests/ops/stack/test_stack.py
    "clients/README.md",  # tests/clients, which build them
    "clients/go/README.md",
    "clients/java/README.md",
    "clients/typescript/README.md",
    "clients/python/README.md",
    "bench/README.md",  # minutes, all of it
    "CONTRIBUTING.md",  # .ci/run
    "docs/tutorial.md",  # the last test here
}
PAGES = sorted(
    page
    for pattern in (
        "*.md",
        "docs/*.md",
        "examples/*.md",
        "clients/*.md",
        "clients/*/README.md",
        "bench/*.md",
    )
    for page in (str(found.relative_to(CHECKOUT)) for found in CHECKOUT.glob(pattern))
    if "```sh\n" in (CHECKOUT / page).read_text()
)
TUTORIAL = "docs/tutorial.md"
FIRST_TERMINAL = "first terminal"
DEMO = "ml-100k"
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*) -->\n)?^(?P<indent> *)```sh\n(?P<code>.*?)^ *```", re.M | re.S
)
_SECONDS = 300


@dataclass(frozen=True)
class Block:
    code: str
    mark: str
    """What its comment says; empty if it has none."""

    @property
    def exit_code(self) -> int:
        return int(self.mark.removeprefix("exits with ")) if "exits with" in self.mark else 0


def blocks(page: str) -> list[Block]:
    text = (CHECKOUT / page).read_text()
    found = [Block(each["code"], each["mark"] or "") for each in _BLOCK.finditer(text)]
    assert len(found) == len(re.findall(r"^ *```sh\n", text, re.MULTILINE)), page
    return found


class Reader:
    """Runs blocks as a reader would paste them into one terminal, with the demo's data alone."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self._folder, self._stack = folder, stack
        folder.mkdir()
        for part in (stack.home.data, stack.home.features, stack.home.run):
            for other in part(DEMO).parent.glob("[a-z]*"):
                if other.name != DEMO:
                    shutil.rmtree(other)
        for each in CHECKOUT.iterdir():
            if each.name not in {".git", ".venv", ".vireo"}:
                (folder / each.name).symlink_to(each)
        (folder / ".vireo").symlink_to(stack.home.root)
        (folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
        self._exports = folder / ".exports"
        self._exports.write_text("")

    def at(self, stack: Stack) -> None:
        """Go on with another stack of the same home."""
        self._stack = stack

    def paste(self, block: Block) -> str:
        """Run a block and return what it prints; fail if its exit code is another than is said."""
        script = f". {self._exports}\n{self._here(block.code)}\nexport -p >{self._exports}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env={
                **os.environ,
                **self._stack.environment,
                "CURL_HOME": str(self._folder),
                "PATH": f"{self._stack.environment['PATH']}:{CHECKOUT / '.vireo' / 'helm'}",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        assert done.returncode == block.exit_code, f"{block.code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _here(self, code: str) -> str:
        """Return a block with the ports of this stack instead of the default ones."""
        base = int(self._stack.environment["VIREO_PORT_BASE"])
        code = code.replace("127.0.0.1:8080", self._stack.edge).replace(
            ". .venv/bin/activate", "true"
        )
        return re.sub(
            r"127\.0\.0\.1:(8|9)1(\d\d)\b",
            lambda found: f"127.0.0.1:{base + 1000 * (found[1] == '9') + int(found[2])}",
            code,
        )


@pytest.fixture(scope="module")
def stack(demo_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack on a copy of the demo's home."""
    home = Home(tmp_path_factory.mktemp("pages") / "home")
    for part in (Home.data, Home.features, Home.run):
        shutil.copytree(part(demo_home, DEMO), part(home, DEMO))
    publish = f"vireo release publish --data {DEMO}"
    recorded = {"VIREO_SLATE_SHARE": "1", "VIREO_ARCHIVE_SECONDS": "2"}
    with running_stack(home.root, prepare=publish, settings=ONE_POD_EACH | recorded) as stack:
        yield stack


@pytest.mark.parametrize("page", PAGES)
def test_each_block_that_is_not_run_says_why(page: str) -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for block in blocks(page):
        for target in re.findall(r"(?:^|\()make (?:-\S+ )*([a-z][a-z-]+)", block.code, re.M):
            assert re.search(rf"^[^\t\n]*\b{target}\b.*:", makefile, re.MULTILINE), block
        if reason := block.mark.removeprefix("not run: ") if "not run" in block.mark else "":
            assert reason in REASONS, block
        elif block.mark:
            assert re.fullmatch(rf"exits with \d+|tab: .+|{FIRST_TERMINAL}", block.mark), block


@pytest.mark.parametrize("page", [each for each in PAGES if each not in TESTED_ELSEWHERE])
def test_the_blocks_of_a_page_run(page: str, stack: Stack, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "checkout", stack)
    for block in blocks(page):
        if not block.mark.startswith("not run: "):
            reader.paste(block)


def test_the_tutorial_leads_from_the_demo_to_a_secured_site(stack: Stack, tmp_path: Path) -> None:
    """It ends the stack of the other pages, so it is the last one."""
    reader, starts = Reader(tmp_path / "checkout", stack), 0
    with ExitStack() as secured:
        for block in blocks(TUTORIAL):
            if block.mark.startswith("not run: "):
                continue
            if block.mark != FIRST_TERMINAL:
                said = reader.paste(block)
                if "curl --cacert" in block.code:
                    own = re.findall(r'"videoId": ?"v\d+"', said)
                    assert len(own) == 5, "the site's own data, after a restart"
                if "events record" in block.code:
                    before, _, after, *_ = re.split(r"^release .*$", said, flags=re.MULTILINE)
                    assert {"v14", "v17"} <= set(before.split())
                    assert not {"v14", "v17"} & set(after.split())
                continue
            starts += 1
            if "--secure" in block.code:
                up = running_stack(stack.home.root, settings=ONE_POD_EACH, arguments=["--secure"])
                reader.at(secured.enter_context(up))
    assert starts == 2
