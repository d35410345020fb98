"""The packages as they are published: a program outside of the checkout imports each."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import vireo_client
from tests.builders.example_clients import CHECKOUT, GO, JAVA, NODE
from tests.builders.hostile import Hostile, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

CLIENTS = CHECKOUT / "clients"
GO_MODULE = "github.com/vireo-recommender/vireo-go"

GO_PROGRAM = """
package main

import (
	"context"
	"fmt"
	"os"

	vireo "github.com/vireo-recommender/vireo-go"
	"github.com/vireo-recommender/vireo-go/vireov1"
)

func main() {
	client, _ := vireo.New(os.Args[1], vireo.Options{Timeout: 60e9})
	slate, err := client.Recommend(context.Background(), &vireov1.RecommendRequest{ViewerId: "1"})
	if err != nil {
		panic(err)
	}
	fmt.Println(slate.Items[0].VideoId)
}
"""
JAVA_PROGRAM = """
import io.vireo.client.VireoClient;
import io.vireo.v1.RecommendRequest;
import java.time.Duration;

public class App {
  public static void main(String[] arguments) {
    Duration patient = Duration.ofMinutes(1);
    try (VireoClient client = VireoClient.builder(arguments[0]).timeout(patient).build()) {
      RecommendRequest request = RecommendRequest.newBuilder().setViewerId("1").build();
      System.out.println(client.recommendAsync(request).join().getItems(0).getVideoId());
    }
  }
}
"""
NODE_PROGRAM = """
import { createVireoClient, VireoError, type RecommendResponse } from "@vireo-recommender/client";

const client = createVireoClient({ baseUrl: `http://${process.argv[2]}`, timeoutMs: 60_000 });
const slate: RecommendResponse = await client.recommend({ viewerId: "1" });
console.log(slate.items[0]?.videoId);
const aborted = client.recommend({ viewerId: "1" }, { signal: AbortSignal.abort() });
await aborted.catch((error: unknown) => console.log((error as VireoError).codeName));
for (let call = 0; call < 20; call++) await client.recommend({ viewerId: "1" }).catch(() => {});
client.close();
"""


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command with no more than the PATH; return what it prints."""
    home = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=home | variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def ask(*command: str | Path, folder: Path, hostile: Hostile | None = None) -> list[str]:
    """Run a program against a server; return its words."""
    async with serving(hostile or Hostile()) as address:  # type: ignore[abstract]
        asking = asyncio.to_thread(run, *command, address, folder=folder)
        return (await asking).split()


@pytest.fixture(scope="module")
def packages() -> Path:
    """Return the folder of all packages."""
    for client in (GO, JAVA, NODE):
        client.build()
    tools = f"VENV_PYTHON={sys.executable}", f"BUF={Path(sys.executable).with_name('buf')}"
    run("make", "-C", CLIENTS, "packages", *tools, folder=CLIENTS, HOME=str(Path.home()))
    return CLIENTS / "build" / "packages"


def one(packages: Path, pattern: str) -> Path:
    [found] = packages.glob(pattern)
    return found


async def test_a_program_imports_the_go_module(packages: Path, tmp_path: Path) -> None:
    module = tmp_path / "path" / "src" / GO_MODULE
    archive = one(packages, "vireo-go-v*.zip")
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(tmp_path / "zip")
    version = archive.stem.removeprefix("vireo-go-")
    shutil.copytree(tmp_path / "zip" / f"{GO_MODULE}@{version}", module)
    assert f"module {GO_MODULE}\n" in (module / "go.mod").read_text()
    (tmp_path / "main.go").write_text(GO_PROGRAM)
    path = f"{tmp_path / 'path'}:/usr/share/gocode"
    cache = Path.home() / ".cache" / "go-build"
    program = "env", "GO111MODULE=off", f"GOPATH={path}", f"GOCACHE={cache}", "go", "run", "main.go"
    assert await ask(*program, folder=tmp_path) == ["v"]


async def test_a_program_imports_the_jar(packages: Path, tmp_path: Path) -> None:
    jar = one(packages, "vireo-client-*[0-9].jar")
    libraries = run("make", "--silent", "-C", CLIENTS, "jars", folder=tmp_path).strip()
    (tmp_path / "App.java").write_text(JAVA_PROGRAM)
    program = "java", "--class-path", f"{jar}:{libraries}", "App.java"
    assert await ask(*program, folder=tmp_path) == ["v"]


async def test_a_program_imports_the_npm_package_and_its_types(
    packages: Path, tmp_path: Path
) -> None:
    modules, installed = tmp_path / "node_modules", CLIENTS / "typescript" / "node_modules"
    with tarfile.open(one(packages, "*.tgz")) as archive:
        archive.extractall(tmp_path, filter="data")
    package = modules / "@vireo-recommender" / "client"
    package.parent.mkdir(parents=True)
    (tmp_path / "package").rename(package)
    needed = json.loads((package / "package.json").read_text())["dependencies"]
    for name in (*needed, "@types/node", "undici-types"):
        (modules / name).parent.mkdir(exist_ok=True)
        (modules / name).symlink_to(installed / name)
    (tmp_path / "app.mts").write_text(NODE_PROGRAM)
    compiler = installed / ".bin" / "tsc"
    flags = "--strict", "--module", "nodenext", "--target", "es2022", "--types", "node"
    run(compiler, *flags, "app.mts", folder=tmp_path)
    down = Hostile(["ok", "UNAVAILABLE"])  # type: ignore[abstract]
    said = await ask("node", "app.mjs", folder=tmp_path, hostile=down)
    assert said == ["v", "CANCELLED"]
    # The retries of all calls are throttled, here by the package itself.
    assert 21 < len(down.calls) <= 21 + 11


def test_all_packages_have_one_version() -> None:
    files = ("go/retries.go", "java/pom.xml", "typescript/package.json")
    named = r'(?:<version>|"version": "|const Version = ")([\d.]+)'
    versions = [re.search(named, (CLIENTS / file).read_text()) for file in files]
    assert [found and found[1] for found in versions] == [vireo_client.__version__] * len(files)
