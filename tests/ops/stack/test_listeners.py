"""Every port of running stacks: none that isn't declared, and each asks for what is declared."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.error import HTTPError

import psutil
import pytest
import urllib3

from tests.builders.listeners import Answer, answer, listening, unix_sockets
from tests.builders.secured_stack import ONE_POD_EACH
from tests.builders.stack import Stack, running_stack
from tests.builders.tiny_home import DATASET, build_tiny_home
from tests.builders.tokens import Tokens
from tests.builders.waiting import until
from vireo.ops.stack.settings import (
    METRICS_PORT_OFFSET,
    OIP_HTTP_PORT_OFFSET,
    POD_KINDS,
    StackSettings,
)
from vireo.server.home import Home
from vireo.server.security.folder import SecurityFolder

PUBLISH = f"vireo release publish --data {DATASET}"
SECURITY = Path(__file__).parents[3] / "docs" / "security.md"
ANSWERS: dict[str, Answer] = {
    "nothing": "served",
    "keys of S3": "asked for keys",
    "the log's token": "asked for the log's token",
    "a token": "asked for a token",
    "a certificate": "refused",
}

Credential: TypeAlias = Literal[
    "nothing", "keys of S3", "the log's token", "a certificate", "a token"
]
"""The credential that a port requires: a certificate is one by the stack's authority, or the S3
server's own, which no other process has."""


@dataclass(frozen=True)
class Listener:
    """Ports of one kind."""

    purpose: str
    process: str
    """Name of the process, or the prefix of the names of its kind."""
    ports: tuple[int, ...]
    asks: Credential
    asks_secured: Credential
    """The credential in a secured stack."""
    host: str = "127.0.0.1"


def listeners(settings: StackSettings, *, embedded_s3: bool = True) -> Iterator[Listener]:
    """Yield every listener of a stack with these settings."""
    yield Listener(
        "edge, for callers",
        "envoy",
        (settings.edge_port,),
        "nothing",
        "a token",
        settings.edge_host,
    )
    if settings.admin_port:
        yield Listener(
            "Envoy's admin interface, to read only",
            "envoy",
            (settings.admin_port,),
            "nothing",
            "nothing",
        )
    yield Listener(
        "inner listeners, before candidate and ranking pods",
        "envoy",
        (settings.candidate_port, settings.ranking_port),
        "nothing",
        "a certificate",
    )
    yield Listener("control plane", "control", (settings.control_port,), "nothing", "a certificate")
    for kind in POD_KINDS:
        pods = (*settings.pod_ports(kind), *settings.pod_ports(kind, "canary"))
        yield Listener(f"{kind} pods", kind, pods, "nothing", "a certificate")
        yield _metrics(kind, pods)
        if settings.oip_http and kind != "gateway":
            moved = tuple(port + OIP_HTTP_PORT_OFFSET for port in pods)
            yield Listener(f"{kind} pods, by HTTP", kind, moved, "nothing", "a certificate")
    yield _metrics("control", (settings.control_port,))
    if embedded_s3:
        [s3, *internal] = settings.s3_ports()
        yield Listener("S3", "s3", (s3,), "keys of S3", "keys of S3")
        yield Listener(
            "the S3 server's own parts, for each other",
            "s3",
            tuple(internal),
            "a certificate",
            "a certificate",
        )
    token: Credential = "the log's token"
    yield Listener("log of events", "log", (settings.log_port,), token, token)
    yield _metrics("log", (settings.log_port,))
    consumers = tuple(settings.consumer_ports(partitions=1))
    yield Listener("consumers of events", "consumer", consumers, "nothing", "a certificate")
    yield _metrics("consumer", consumers)


def _metrics(process: str, ports: tuple[int, ...]) -> Listener:
    moved = tuple(port + METRICS_PORT_OFFSET for port in ports)
    return Listener(f"metrics of {process}", process, moved, "nothing", "nothing")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "secured"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    if not request.param:
        yield request.getfixturevalue("tiny_stack")
        return
    home = build_tiny_home(tmp_path_factory.mktemp("stack"))
    with running_stack(
        home.root,
        prepare=PUBLISH,
        settings={**ONE_POD_EACH, "VIREO_OIP_HTTP": "true"},  # and the plain one is without
        arguments=["--secure"],
    ) as stack:
        yield stack


@pytest.fixture
def declared(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> list[Listener]:
    for name, text in stack.environment.items():
        if name.startswith("VIREO_"):
            monkeypatch.setenv(name, text)
    return list(listeners(StackSettings.load()))


def processes(stack: Stack) -> dict[int, str]:
    """The name of each process of a stack by its id, their children's and `vireo up`'s too."""
    names = {each.pid: each.name for each in stack.state().processes if each.pid}
    found = {stack.process.pid: "up"}
    for pid, name in names.items():
        found |= {each.pid: name for each in psutil.Process(pid).children(recursive=True)}
        found[pid] = name
    return found


@pytest.mark.integration
async def test_no_process_listens_on_an_undeclared_port(
    stack: Stack, declared: list[Listener]
) -> None:
    expected = {(each.process, each.host, port) for each in declared for port in each.ports}

    def found() -> set[tuple[str, str, int]]:
        names = processes(stack)
        return {
            (names[pid].partition("-")[0], host, port)
            for pid, host, port in listening(map(psutil.Process, names))
        }

    with contextlib.suppress(TimeoutError):  # S3's admin part comes a moment later
        await until(lambda: found() >= expected)
    assert found() == expected


@pytest.mark.integration
def test_each_port_requires_the_declared_credentials(
    stack: Stack, declared: list[Listener]
) -> None:
    secured = stack.state().secure
    asked = {
        (each.purpose, port): ANSWERS[each.asks_secured if secured else each.asks]
        for each in declared
        for port in each.ports
    }
    assert {key: answer(("127.0.0.1", key[1])) for key in asked} == asked


@pytest.mark.integration
def test_unix_sockets_are_for_their_owner_or_ask_for_a_certificate(stack: Stack) -> None:
    paths = unix_sockets(map(psutil.Process, processes(stack))) - {"s3.sock", "filer.sock"}
    assert paths
    assert {path: answer(path) for path in paths} == dict.fromkeys(paths, "refused")
    for name in ("s3.sock", "filer.sock"):
        assert (stack.home.s3 / name).is_socket()


@pytest.mark.integration
def test_envoys_admin_interface_changes_nothing(stack: Stack) -> None:
    port = stack.state().admin_port
    for path in ("quitquitquit", "healthcheck/fail", "drain_listeners", "logging?level=trace"):
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data=b"", timeout=60)
        assert refused.value.code == 403
    for path in ("stats?filter=edge", "clusters?format=json", "config_dump", "ready"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as shown:
            assert shown.status == 200


@pytest.mark.integration
def test_private_files_are_readable_by_their_owner_only(stack: Stack) -> None:
    home = stack.home
    for folder in (
        home.s3,
        home.root / "log",
        *([home.security / "certificates"] if stack.state().secure else []),
    ):
        assert folder.stat().st_mode & 0o077 == 0, folder
    private = [*home.security.rglob("*.key"), home.stack / "lock"]
    assert not [path for path in private if path.stat().st_mode & 0o077]


@pytest.mark.integration
def test_the_edge_has_the_protocol_by_http_for_tokens_of_its_scope_if_it_is_on(
    stack: Stack,
) -> None:
    secured = stack.state().secure
    folder = SecurityFolder(stack.home.security)
    with urllib3.PoolManager(ca_certs=str(folder.authority) if secured else None) as pool:

        def status(path: str, scope: str) -> int:
            if not secured:
                return pool.request("GET", f"http://{stack.edge}{path}").status
            headers = {"authorization": f"Bearer {Tokens(folder).good(scope)}"}
            return pool.request("GET", f"https://{stack.edge}{path}", headers=headers).status

        for path in ("/v2", "/v2/health/ready", "/v2/models/ranker", "/v2/models/viewer_tower"):
            assert status(path, "vireo.inference") == (200 if secured else 404)
        assert not secured or status("/v2", "vireo.read") == 403


@pytest.mark.parametrize("embedded_s3", [True, False])
def test_each_declared_port_is_known_to_be_free_before_the_start(embedded_s3: bool) -> None:
    settings = StackSettings(home=Path("/nowhere"), canary_pods=2, oip_http=True)
    ports = [port for each in listeners(settings, embedded_s3=embedded_s3) for port in each.ports]
    assert sorted(ports) == sorted(settings.ports(embedded_s3=embedded_s3))


def test_the_documents_table_has_each_port_as_it_is_declared() -> None:
    rows = [
        f"| {_ports(each)} | {each.purpose} | {each.asks} | {each.asks_secured} |"
        for each in listeners(StackSettings(home=Home(Path("/nowhere")).root))
    ]
    assert "\n".join(rows) in SECURITY.read_text()


def _ports(listener: Listener) -> str:
    """For example "8101, 8102" or "8111 to 8118, 18118"."""
    runs: list[list[int]] = []
    for port in listener.ports:
        if runs and port == runs[-1][-1] + 1:
            runs[-1].append(port)
        else:
            runs.append([port])
    return ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )
