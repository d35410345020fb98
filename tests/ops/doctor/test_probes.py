"""Probes of real parts: what they find when a part is well, away, hangs, or is locked."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from tests.builders.control import running_control
from tests.builders.http_page import served_metrics
from tests.builders.nats import running_nats, settings_of
from tests.builders.redis import running_redis
from tests.builders.s3 import unreachable_s3
from tests.builders.sqlite_lock import locked
from tests.builders.waiting import wait_until
from tests.builders.xds import xds_client
from vireo.ops.doctor.deployment import MAX_BYTES, Deployment, Probe, UnansweredError, get, reach
from vireo.ops.doctor.diagnose import diagnose
from vireo.ops.doctor.facts import Facts, Fault, Part
from vireo.ops.doctor.probes import machine, metrics, services
from vireo.ops.stack.ports import free_port_base
from vireo.server.control.snapshot import ENDPOINTS
from vireo.server.errors import VireoError
from vireo.server.security.certificates import Authority

VIEWS = ("viewer_activity", "viewer_hidden")


def asked(probes: Iterator[Probe]) -> Facts:
    return Facts.merged(probe.ask() for probe in probes)


def fault_of(facts: Facts, name: str) -> Fault:
    part = facts.part(name)
    assert part is not None, facts
    assert bool(part.fault) == bool(part.problem)
    return part.fault


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def deployment(**parts: object) -> Deployment:
    return Deployment(window=0.05, answer=0.5, **parts)  # type: ignore[arg-type]


def test_a_page_is_read_twice_to_tell_what_is_counted_now() -> None:
    registry = CollectorRegistry()
    calls = Counter("vireo_calls", "Calls.", ["kind"], registry=registry)
    calls.labels("old").inc(500)
    waiting = Gauge("vireo_waiting", "Waiting.", registry=registry)
    waiting.set_function(lambda: calls.labels("new").inc(3) or 7)  # type: ignore[func-returns-value]
    with served_metrics(registry) as url:
        [page] = asked(metrics.probes(deployment(metrics={"gateway-1": url}))).pages
    assert (page.source, page.fault, page.value("vireo_waiting")) == ("gateway-1", "", 7)
    assert page.increase("vireo_calls_total", kind="old") == 0
    assert page.increase("vireo_calls_total") == 3
    assert page.seconds >= 0.05


def test_pages_that_do_not_come_say_how(closed_port: int) -> None:
    with silent_port() as silent:
        pages = {
            "dead": f"http://127.0.0.1:{closed_port}/metrics",
            "hanging": f"http://127.0.0.1:{silent}/metrics",
        }
        found = asked(metrics.probes(deployment(metrics=pages))).pages
    assert {page.source: page.fault for page in found} == {"dead": "refused", "hanging": "silent"}


def test_parts_are_asked_without_this_machines_proxy_and_tell_their_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with served_metrics() as url:
        page = get(url, 60.0)
    assert page.status == 200
    assert page.clock is not None, "a server's clock is read from its date"
    assert abs(page.clock.ahead) <= page.clock.uncertainty + 1


def test_without_metrics_the_option_that_names_them_is_reported() -> None:
    [unasked] = asked(metrics.probes(deployment())).unasked
    assert "--metrics" in unasked.why


def test_pages_of_machines_elsewhere_tell_of_disks_and_certificates() -> None:
    registry = CollectorRegistry()
    for name, value in (("free", 1e9), ("size", 5e10)):
        gauge = Gauge(f"vireo_disk_{name}_bytes", "Bytes.", ["folder"], registry=registry)
        gauge.labels("cache").set(value)
    expiry = Gauge("vireo_certificate_expiry_timestamp_seconds", "", ["file"], registry=registry)
    expiry.labels("certificate").set(datetime.now(UTC).timestamp() + 3600)
    with served_metrics(registry) as url:
        facts = asked(metrics.probes(deployment(metrics={"pod": url})))
    [disk], [certificate] = facts.disks, facts.certificates
    assert (disk.folder, disk.free, disk.size) == ("cache", 1e9, 5e10)
    assert 3000 < certificate.ends_in <= 3600
    assert not facts.clocks  # it is this machine's own


def test_a_prometheus_that_is_none_is_reported(closed_port: int) -> None:
    with pytest.raises(VireoError, match="nothing listens there; is that its address"):
        metrics.ask_prometheus(deployment(prometheus=f"http://127.0.0.1:{closed_port}"))
    with silent_port() as silent, pytest.raises(VireoError, match="doesn't answer; is that"):
        metrics.ask_prometheus(deployment(prometheus=f"http://127.0.0.1:{silent}"))


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, "out of order", "HTTP status 500 and no data"),
        (200, "<html>Sign in</html>", "HTTP status 200 and no data"),
        (200, '{"status": "success", "data": 3}', "HTTP status 200 and no data"),
        (503, '{"status": "error", "error": "query timed out"}', "the query: query timed out"),
        (200, '{"status": "success", "data": {"result": []}}', "no metrics of Vireo: does it"),
        (200, " " * MAX_BYTES, "more than 64 MB"),
    ],
)
def test_a_prometheus_that_fails_says_how(status: int, body: str, words: str) -> None:
    with answering(status, body) as url, pytest.raises(VireoError, match=words):
        metrics.ask_prometheus(replace(deployment(prometheus=url), answer=10.0))


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """URL of a server that answers every request alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


ENVOYS = """
envoy_control_plane_connected_state 1
envoy_cluster_membership_total{envoy_cluster_name="candidate"} 2
envoy_cluster_membership_healthy{envoy_cluster_name="candidate"} %d
envoy_cluster_membership_total{envoy_cluster_name="gateway"} 2
envoy_cluster_membership_healthy{envoy_cluster_name="gateway"} %d
envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix="edge"} 40
envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="edge"} 4
envoy_http_local_rate_limit_rate_limited{envoy_local_http_ratelimit_prefix="edge"} 30
envoy_cluster_upstream_rq_pending_overflow{envoy_cluster_name="gateway"} 2
"""
"""Metrics as Envoy has them, with how many candidate and gateway pods are healthy."""
OURS = """
vireo_features_behind 2
vireo_rpcs_total{method="/a"} 7
vireo_rpc_seconds_bucket{method="/a",le="0.1"} 6
vireo_stage_seconds_bucket{stage="ranking",le="0.1"} 6
process_resident_memory_bytes 1e8
"""
DEAD = "127.0.0.1:1"


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A Prometheus with the targets of two installations, one process of which is gone."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus isn't installed")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port_base()
    with ExitStack() as running:

        def job(name: str, *targets: tuple[str, str, str, str]) -> dict[str, object]:
            groups = []
            for instance, kind, whose, page in targets:
                url = running.enter_context(answering(200, page)) if page else DEAD
                labels = {"instance": instance, "component": kind, "installation": whose}
                groups.append({"targets": [url.removeprefix("http://")], "labels": labels})
            return {"job_name": name, "static_configs": groups}

        jobs = [
            job(
                "vireo",
                ("gateway-1", "gateway", "shop", OURS),
                ("gateway-2", "gateway", "shop", ""),
                ("gateway-1", "gateway", "other", OURS),
            ),
            job(
                "envoy",
                ("edge-1", "edge", "shop", ENVOYS % (2, 1)),  # it calls no candidate pods
                ("gateway-1", "sidecar", "shop", ENVOYS % (0, 0)),
                ("gateway-2", "sidecar", "shop", ENVOYS % (0, 0)),
            ),
            job("others", ("gateway-3", "gateway", "shop", OURS)),
        ]
        file = folder / "prometheus.json"
        file.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
        command = ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"]
        process = running.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        running.callback(process.terminate)
        here = replace(deployment(prometheus=f"http://127.0.0.1:{port}"), answer=10.0)
        shop, other = (replace(here, installation=each) for each in ("shop", "other"))
        wait_until(lambda: len(found_by(shop).pages) == 2 and len(found_by(shop).edges) == 3)
        wait_until(lambda: len(found_by(other).pages) == 1)
        yield shop


def found_by(here: Deployment) -> Facts:
    """What a Prometheus has; nothing until it answers."""
    try:
        return metrics.ask_prometheus(here)
    except VireoError:
        return Facts()


def test_a_prometheus_is_asked_for_the_pages_that_it_has_read(observed: Deployment) -> None:
    pages = {page.source: page for page in found_by(observed).pages}
    assert pages.keys() == {"gateway-1", "gateway-2"}, "a sidecar is no process"
    assert pages["gateway-2"].fault == "refused"
    page = pages["gateway-1"]
    assert page.value("vireo_features_behind") == 2, "another installation's are not added"
    assert page.value("process_resident_memory_bytes") == 1e8
    assert page.increase("vireo_rpcs_total", method="/a") == 7
    assert page.has("vireo_rpc_seconds_bucket")
    assert not page.has("vireo_stage_seconds_bucket"), "nobody needs so many samples"


def test_a_prometheus_tells_what_envoys_see(observed: Deployment) -> None:
    facts = found_by(observed)
    [edge] = [each for each in facts.edges if each.requests]
    assert (edge.requests, edge.open_requests, edge.refused_calls) == (40, 4, 32)
    assert all(each.knows_control for each in facts.edges)
    causes = {each.cause: each for each in diagnose(facts)}
    assert causes.keys() >= {"no-candidate", "pod-dies"}
    assert "no-gateway" not in causes, "the edge calls one"
    assert causes["no-candidate"].evidence == (
        "Envoy calls none of the 2 candidate pods that it knows",
    )


def test_of_several_installations_one_must_be_named(observed: Deployment) -> None:
    with pytest.raises(VireoError, match="name one with --installation: other, shop"):
        metrics.ask_prometheus(replace(observed, installation=""))
    with pytest.raises(VireoError, match='no metrics of the installation sh"op'):
        metrics.ask_prometheus(replace(observed, installation='sh"op'))


def test_connections_tell_a_dead_port_from_one_that_answers(closed_port: int) -> None:
    assert reach(f"127.0.0.1:{closed_port}") == "refused"
    with silent_port() as silent:
        assert reach(f"127.0.0.1:{silent}") == ""
        with pytest.raises(UnansweredError) as silence:
            get(f"http://127.0.0.1:{silent}/", 0.2)
    assert silence.value.fault == "silent"


def test_the_log_is_well_hangs_and_is_gone(tmp_path: Path) -> None:
    with running_nats(tmp_path) as nats:
        here = deployment(log=settings_of(nats))
        assert fault_of(services.ask_log(here), "log") == ""
        nats.hang()
        assert fault_of(services.ask_log(here), "log") in ("failed", "silent")
        nats.kill()
        assert fault_of(services.ask_log(here), "log") == "refused"


def test_a_log_that_says_that_it_stores_nothing_is_believed(tmp_path: Path) -> None:
    ill = {"/healthz": lambda: "JetStream is not available"}
    with served_metrics(probes=ill) as url, running_nats(tmp_path) as nats:
        health = url.replace("metrics", "healthz")
        facts = services.ask_log(deployment(log=settings_of(nats), log_health=health))
    assert fault_of(facts, "log") == "failed"
    [part] = facts.parts
    assert part.problem == "it stores nothing: JetStream is not available"


def repository(folder: Path, online: str) -> Path:
    """A feature repository whose online store is described by a line of YAML."""
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "feature_store.yaml").write_text(f"project: p1\nonline_store: {online}\n")
    return folder


@pytest.fixture
def sqlite_features(tmp_path: Path) -> Path:
    folder = repository(tmp_path, "{type: sqlite, path: online.db}")
    with closing(sqlite3.connect(folder / "tiny" / "online.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        for view in VIEWS:
            connection.execute(f'CREATE TABLE "p1_{view}" (entity_key BLOB)')
        connection.commit()
    return folder


def store_part(features: Path) -> Part:
    part = services.ask_store(deployment(features=features)).part("store")
    assert part is not None
    return part


def test_a_store_that_another_process_has_locked_is_told_with_that_process(
    sqlite_features: Path,
) -> None:
    with locked(sqlite_features / "tiny" / "online.db") as locker:
        part = store_part(sqlite_features)
    assert part.fault == "locked"
    assert f"process {locker} " in part.problem
    assert store_part(sqlite_features).fault == ""


def test_a_store_without_its_tables_or_file_has_no_features(sqlite_features: Path) -> None:
    file = sqlite_features / "tiny" / "online.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute('ALTER TABLE "p1_viewer_activity" RENAME TO away')
    part = store_part(sqlite_features)
    assert (part.fault, "viewer_activity" in part.problem) == ("missing", True)
    file.unlink()
    assert store_part(sqlite_features).fault == "missing"
    assert not file.exists()
    shutil.rmtree(sqlite_features / "tiny")
    assert store_part(sqlite_features).fault == "missing"


def test_redis_is_well_hangs_and_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_redis(tmp_path / "redis") as server:
        monkeypatch.setenv("VIREO_REDIS_URL", server.url)
        online = "{type: redis}"
        features = repository(tmp_path / "features", online)
        assert store_part(features).fault == ""
        server.hang()
        assert store_part(features).fault == "silent"
        server.kill()
        assert store_part(features).fault == "refused"


def test_s3_that_is_away_is_told() -> None:
    facts = services.ask_s3(deployment(s3=unreachable_s3()))
    assert fault_of(facts, "s3") in ("refused", "unreachable")


async def test_what_an_envoy_refuses_is_told_in_its_words() -> None:
    async with (
        running_control({}) as plane,
        xds_client(plane.port, node="one") as client,
    ):
        await client.ask(ENDPOINTS, "gateway")
        await client.refuse(await client.receive(), "no such zone")
        here = deployment(control=f"127.0.0.1:{plane.port}")
        async with asyncio.timeout(30):
            while not (facts := await asyncio.to_thread(services.ask_control, here)).refusals:
                pass  # it has yet to be heard
    [refusal] = facts.refusals
    assert (refusal.envoy, refusal.name, refusal.words) == ("one", "gateway", "no such zone")
    assert fault_of(facts, "control") == ""


def test_a_control_plane_that_is_away_or_hangs_is_told(closed_port: int) -> None:
    gone = deployment(control=f"127.0.0.1:{closed_port}")
    assert fault_of(services.ask_control(gone), "control") == "refused"
    with silent_port() as silent:
        hanging = deployment(control=f"127.0.0.1:{silent}")
        assert fault_of(services.ask_control(hanging), "control") == "failed"


def test_certificates_tell_when_they_end_or_that_they_are_none(tmp_path: Path) -> None:
    ends = datetime.now(UTC) + timedelta(hours=5)
    soon, none = tmp_path / "soon.crt", tmp_path / "none.crt"
    soon.write_bytes(Authority.new().issue("edge", ends=ends)[0])
    none.write_text("nothing")
    facts = asked(machine.file_probes(deployment(certificates=(soon, none))))
    found = {Path(each.file).name: each for each in facts.certificates}
    assert 4.9 * 3600 < found["soon.crt"].ends_in <= 5 * 3600
    assert found["none.crt"].problem


def test_the_disk_of_a_folder_that_is_yet_to_be_made_is_that_of_its_parent(tmp_path: Path) -> None:
    folders = {"the cache of releases": tmp_path / "a" / "b"}
    [disk] = asked(machine.file_probes(deployment(folders=folders))).disks
    assert disk.what == "the cache of releases"
    assert 0 <= disk.free <= disk.size
