"""A whole stack under `vireo up --secure`: who is let in, who is refused, how, and what is counted.

All in one stack, in the order of the file: the last tests replace its certificates and keys.
"""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_pem_x509_certificates

from tests.acceptance.conftest import CHECKOUT
from tests.builders.asking import asking
from tests.builders.certificates import (
    Certificate,
    authority,
    role_files,
    serial,
    shown_serial,
    signed,
)
from tests.builders.chart import flags, render
from tests.builders.faulty_s3 import FaultyS3, faulty_s3
from tests.builders.redis import RunningRedis, running_redis
from tests.builders.s3 import running_s3
from tests.builders.secured_stack import (
    SECONDS,
    SecuredStack,
    asked,
    bearer,
    running_secured_stack,
)
from tests.builders.tiny_home import DATASET, VIEWER, build_tiny_home
from tests.builders.waiting import wait_for, wait_until
from tests.conftest import REFUSED
from tests.otlp_sink import (
    OtlpSink,
    check_slate_trace,
    collector_credentials,
    running_otlp_sink,
    sampled,
)
from vireo.ops.cli.up import show_endpoints
from vireo.server.home import Home
from vireo.server.rpc.tls import TlsFiles, tls_name
from vireo.server.security.certificates import Authority, Certificates
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import public_jwk
from vireo.v1 import catalog_pb2
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1.catalog_pb2_grpc import CatalogServiceStub
from vireo.v1.recommendation_pb2_grpc import RecommendationServiceStub

RATE = 20
PASSWORD = "first"

RecordRejection = Callable[[str, str, str, str], None]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    """A server that wants a user and a password."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        server.ask_for_password("vireo", PASSWORD)
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, redis_server: RunningRedis) -> Home:
    """The stack's home, with certificates, and features in Redis."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VIREO_ONLINE_STORE", "redis")
        patched.setenv("VIREO_REDIS_URL", redis_server.url)
        home = build_tiny_home(tmp_path_factory.mktemp("secured"))
    Certificates(SecurityFolder(home.security)).ensure(["127.0.0.1"])
    return home


@pytest.fixture(scope="module")
def sink(home: Home) -> Iterator[OtlpSink]:
    """A collector of traces, by mutual TLS."""
    signer = Certificates(SecurityFolder(home.security)).signing_authority()
    with running_otlp_sink(collector_credentials(signer)) as sink:
        yield sink


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The authority that has signed what the S3 server shows."""
    return authority(tmp_path_factory.mktemp("trusted"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, trusted: Certificate) -> Iterator[FaultyS3]:
    """An S3 server that is reached by TLS alone."""
    folder = tmp_path_factory.mktemp("storage")
    shown = signed(folder, "storage", trusted)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(shown.certificate, shown.key)
    with running_s3(folder) as settings, faulty_s3(settings, tls=tls) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def secured(
    home: Home,
    sink: OtlpSink,
    redis_server: RunningRedis,
    storage: FaultyS3,
    trusted: Certificate,
) -> Iterator[SecuredStack]:
    publish = f"vireo release publish --data {DATASET}"
    settings = {
        "VIREO_RATE_LIMIT": str(RATE),
        "VIREO_OTLP_ENDPOINT": f"https://127.0.0.1:{sink.port}",
        "VIREO_TRACE_SHARE": "0",
        "VIREO_REDIS_URL": redis_server.url,
        "SSL_CERT_FILE": str(trusted.certificate),
        **storage.settings.environment(),
        "VIREO_MAX_EVENTS_LAG": "600",  # of a busy machine, whose slates would declare it
        "VIREO_GATEWAY_PODS": "2",  # one of them serves while the other is restarted
    }
    with running_secured_stack(home, prepare=publish, settings=settings) as secured:
        yield secured


@pytest.fixture
def record_rejection(record_property: Callable[[str, object], None]) -> RecordRejection:
    """Return a function that adds a row to the table of rejections at the end of the output."""

    def record(refused: str, place: str, answer: str, counted: str) -> None:
        record_property(REFUSED, (refused, place, answer, counted))

    return record


def counter_at(
    secured: SecuredStack, place: str, port: int, stat: str
) -> tuple[str, Callable[[], int]]:
    """What counts handshakes that fail at a port of Envoy, or that begin at a process of ours."""
    if place in ("edge", "envoy"):
        return f"ssl.{stat}", lambda: secured.count(f"^listener.*_{port}.ssl.{stat}$")
    return "vireo_tls_handshakes", lambda: secured.handshakes(port)


def test_a_good_call_is_answered_by_grpc_and_by_rest(secured: SecuredStack) -> None:
    answer = secured.recommend(secured.tokens.good(subject="good"))
    assert len(answer.items) == 10
    assert not answer.degradations, "all hops work"
    rest = secured.rest(secured.tokens.good(subject="good"))
    assert rest.status == 200, rest.data
    assert [item["videoId"] for item in rest.json()["items"]] == [
        item.video_id for item in answer.items
    ]


def test_the_command_of_helm_test_shows_a_slate_if_its_token_is_good(
    secured: SecuredStack, tmp_path: Path
) -> None:
    tokens = ('tokens.jwksUrl="https://keys"', 'test.token.existingSecret="caller"')
    target = f'test.target="{secured.stack.edge}"'
    pod = render(*flags("tls.enabled=true", *tokens, target)).named("Pod")["vireo-test"]
    [container] = pod["spec"]["containers"]
    of_pod = {each["name"]: str(each.get("value")) for each in container["env"]}
    assert {of_pod["VIREO_CA"], of_pod["VIREO_HOME"]} == {"/edge/ca.crt", "/tmp"}
    here = {"VIREO_CA": str(secured.folder.authority), "VIREO_HOME": str(tmp_path)}
    outside = secured.stack.environment
    inherited = {key: outside[key] for key in ("PATH", "PYTHONPATH") if key in outside}

    def run(token: str) -> subprocess.CompletedProcess[str]:
        environment = {**inherited, **of_pod, **here, "VIREO_TOKEN": token}
        return subprocess.run(container["command"], env=environment, capture_output=True, text=True)

    asked = run(secured.tokens.good(subject="helm"))
    assert asked.returncode == 0, asked.stderr
    assert len(re.findall(r"^ *\d+ ", asked.stdout, re.MULTILINE)) == 10, asked.stdout
    refused = run("a.b.c")
    assert refused.returncode == 1
    assert "set VIREO_TOKEN to a token with the scope vireo.read" in refused.stderr


def test_one_slates_trace_has_every_hop_below_its_caller(
    secured: SecuredStack, sink: OtlpSink
) -> None:
    trace_id, metadata = sampled()
    token = bearer(secured.tokens.good(subject="traced"))
    with secured.channel() as channel:
        RecommendationServiceStub(channel).Recommend(
            pb.RecommendRequest(viewer_id=VIEWER), timeout=SECONDS, metadata=(*token, *metadata)
        )
    check_slate_trace(sink, trace_id)


def test_commands_find_their_way_in(secured: SecuredStack) -> None:
    status = json.loads(secured.vireo("status", "--json"))
    releases = [each["release"] for each in status["processes"] if each["name"] != "s3"]
    assert sum(release is not None for release in releases) == 4
    assert len(status["envoys"]) == 1
    assert len(json.loads(secured.vireo("recommend", "1", "--json"))["items"]) == 10
    token = secured.vireo("tokens", "make", "--scope", "vireo.read").strip()
    further = {"VIREO_TOKEN": token, "VIREO_CA": str(secured.folder.authority)}
    slate = secured.vireo("recommend", "1", "--json", "--target", secured.stack.edge, **further)
    assert len(json.loads(slate)["items"]) == 10


def test_the_requests_that_a_ready_stack_prints_work_as_they_are(
    secured: SecuredStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(secured.stack.home.root))
    show_endpoints(secured.stack.state())
    pasted = capsys.readouterr().out.split("\n\n")[1]
    answers = subprocess.run(
        ["bash", "-euc", pasted],
        cwd=CHECKOUT,
        env={name: secured.stack.environment[name] for name in ("PATH", "VIREO_HOME")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answers.returncode == 0, answers.stderr
    first = secured.recommend(secured.tokens.good(subject="pasted")).items[0].video_id
    assert len(re.findall(rf" {first} +[0-9.]+ ", answers.stdout)) == 1, "vireo"
    assert answers.stdout.count(f'"videoId":"{first}"') == 1, "curl"
    assert answers.stdout.count(f'"videoId": "{first}"') == 1, "grpcurl"


def test_plain_text_gets_nowhere(secured: SecuredStack, record_rejection: RecordRejection) -> None:
    for place in ("edge", "gateway-1", "candidate-1", "ranking-1", "control"):
        port = secured.port("envoy" if place == "edge" else place)
        counter, count = counter_at(secured, place, port, "connection_error")
        before = count()
        code = secured.health(port, None, "")
        counted = count() - before
        record_rejection("plain text", place, code.name, f"{counter} +{counted}")
        assert code is grpc.StatusCode.UNAVAILABLE
        assert counted > 0


@pytest.mark.parametrize("reason", ["no token", "expired"])
def test_a_caller_without_a_valid_token_is_unauthenticated(
    secured: SecuredStack, reason: str, record_rejection: RecordRejection
) -> None:
    token = None if reason == "no token" else secured.tokens.refused()[reason]
    before = secured.count("^http.edge.jwt_authn.denied$")
    code, rest = secured.code(token), secured.rest(token)
    counted = secured.count("^http.edge.jwt_authn.denied$") - before
    record_rejection(reason, "edge", f"{code.name}, {rest.status}", f"jwt_authn.denied +{counted}")
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert (rest.status, rest.json()["code"]) == (401, 16)
    assert counted == 2


def test_processes_accept_only_certificates_of_the_authority(
    secured: SecuredStack, record_rejection: RecordRejection, tmp_path: Path
) -> None:
    ours, roots = secured.folder.tls("operator"), secured.folder.authority
    signer = Certificates(secured.folder).signing_authority()
    expired = datetime.now(UTC) - timedelta(seconds=1)
    theirs = Authority.new("other")
    files = {
        "certificate of another authority": role_files(
            tmp_path / "other", theirs, "operator", trusts=roots
        ),
        "certificate expired": role_files(
            tmp_path / "expired", signer, "operator", trusts=roots, ends=expired
        ),
    }
    only_roots = grpc.ssl_channel_credentials(roots.read_bytes())
    places = [
        *((name, secured.port(name)) for name in ("candidate-1", "ranking-1", "gateway-1")),
        ("control", secured.port("control")),
        ("envoy", secured.inner_port()),
    ]
    for place, port in places:
        role = place.partition("-")[0]
        # Envoy's own hops, or a listener's, show that it is not simply gone.
        if place != "envoy":
            assert secured.health(port, ours, role) is grpc.StatusCode.OK
        for case, stranger in {**files, "no certificate": None}.items():
            stat = "fail_verify_no_cert" if stranger is None else "fail_verify_error"
            counter, count = counter_at(secured, place, port, stat)
            before = count()
            if stranger is None:
                options = [("grpc.ssl_target_name_override", tls_name(role))]
                with grpc.secure_channel(f"127.0.0.1:{port}", only_roots, options) as channel:
                    code = asked(channel)
            else:
                code = secured.health(port, stranger, role)
            assert code is grpc.StatusCode.UNAVAILABLE
            counted = wait_for(lambda: count() - before)  # noqa: B023 (it is called at once)
            record_rejection(case, place, code.name, f"{counter} +{counted}")


def test_a_caller_has_no_more_calls_than_the_stacks_rate_limit(
    secured: SecuredStack, record_rejection: RecordRejection
) -> None:
    pattern = "^edge.http_local_rate_limit.rate_limited$"
    before = secured.count(pattern)
    token = bearer(secured.tokens.good(subject="busy"))
    with secured.channel() as channel:
        stub = RecommendationServiceStub(channel)
        request = pb.RecommendRequest(viewer_id="")  # which costs little: a gateway refuses it
        calls = [
            stub.Recommend.future(request, timeout=SECONDS, metadata=token)
            for _ in range(20 * RATE)
        ]
        codes = Counter(call.code() for call in calls)
    limited, counted = codes[grpc.StatusCode.RESOURCE_EXHAUSTED], secured.count(pattern) - before
    record_rejection(
        "too many calls", "edge", f"RESOURCE_EXHAUSTED x{limited}", f"rate_limited +{counted}"
    )
    assert limited
    assert counted == limited
    assert codes.keys() <= {
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    }


def test_no_secret_is_in_a_log_a_command_line_or_the_state_file(
    secured: SecuredStack, storage: FaultyS3
) -> None:
    home = secured.stack.home
    token = secured.tokens.good(subject="secret")
    secured.recommend(token)
    secrets = {
        "S3 key": storage.settings.secret_key.get_secret_value().encode(),
        "token": token.encode(),
        "signature": token.rpartition(".")[2].encode(),
    }
    for key in secured.folder.root.rglob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600, key
        secrets[f"{key.name}"] = key.read_bytes().splitlines()[1]
    texts = {
        str(path): path.read_bytes()
        for folder in (home.logs, home.stack)
        for path in folder.iterdir()
        if path.is_file()
    }
    for process in secured.stack.state().processes:
        command = Path(f"/proc/{process.pid}/cmdline")
        texts[f"command line of {process.name}"] = command.read_bytes()
    admin = f"http://127.0.0.1:{secured.stack.state().admin_port}/config_dump"
    with urllib.request.urlopen(admin) as answer:
        texts["Envoy's own dump"] = answer.read()
    assert len(texts) > 12
    found = {
        (where, what) for where, text in texts.items() for what in secrets if secrets[what] in text
    }
    assert not found


def test_whoever_may_change_the_catalogue_takes_a_video_down_and_brings_it_back(
    secured: SecuredStack,
) -> None:
    token = secured.tokens.good(subject="catalogue")
    taken_down = secured.recommend(token).items[0].video_id

    def shown() -> bool:
        return taken_down in [item.video_id for item in secured.recommend(token).items]

    with secured.channel() as channel:
        catalogue = CatalogServiceStub(channel)
        removal = catalog_pb2.RemoveVideosRequest(video_ids=[taken_down])
        with pytest.raises(grpc.RpcError) as refused:
            catalogue.RemoveVideos(removal, timeout=SECONDS, metadata=bearer(token))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert shown()
        may_change = bearer(secured.tokens.good("vireo.catalog", subject="catalogue"))
        catalogue.RemoveVideos(removal, timeout=SECONDS, metadata=may_change)
        wait_until(lambda: not shown())
        video = catalog_pb2.Video(video_id=taken_down)
        back = catalog_pb2.UpsertVideosRequest(videos=[video], restore=True)
        catalogue.UpsertVideos(back, timeout=SECONDS, metadata=may_change)
        wait_until(shown)


def places(secured: SecuredStack) -> list[tuple[str, int]]:
    """Roles of processes that show a certificate, and their ports."""
    names = ("gateway-1", "candidate-1", "ranking-1", "control")
    ports = [(name.partition("-")[0], secured.port(name)) for name in names]
    return [*ports, ("edge", secured.port("envoy")), ("envoy", secured.inner_port())]


def pids(secured: SecuredStack) -> dict[str, int | None]:
    return {each.name: each.pid for each in secured.stack.state().processes}


def renew(secured: SecuredStack) -> None:
    """Renew all certificates, and wait until every process shows its new one."""
    secured.vireo("certificates", "make")
    wanted = {role: serial(secured.folder.tls(role)) for role, _ in places(secured)}
    operator = secured.folder.tls("operator")

    def shown() -> bool:
        return wanted == {
            role: shown_serial(port, role, operator) for role, port in places(secured)
        }

    wait_until(shown)


def until_asked(counts: Counter[str], times: int) -> None:
    """Wait for further slates: who calls looks for renewed files once a second."""
    enough = counts["slates"] + times
    wait_until(lambda: counts["slates"] >= enough)


def test_another_authority_takes_over_without_a_restart_and_no_slate_is_lost(
    secured: SecuredStack, tmp_path: Path
) -> None:
    before = pids(secured)
    [old] = load_pem_x509_certificates(secured.folder.authority.read_bytes())
    leaving = shutil.copytree(secured.folder.current, tmp_path / "leaving")
    token = secured.tokens.good(subject="authority", seconds=3600)
    with asking(lambda: secured.recommend(token)) as counts:  # a handshake each
        secured.vireo("certificates", "replace-authority")
        signer = Certificates(secured.folder).signing_authority()
        trusts = secured.folder.authority
        ours = role_files(tmp_path / "new", signer, "operator", trusts=trusts)
        wait_until(
            lambda: all(
                secured.health(port, ours, role) is grpc.StatusCode.OK
                for role, port in places(secured)
                if role != "edge"
            )
        )
        until_asked(counts, 20)
        renew(secured)
        until_asked(counts, 20)
        renew(secured)
        until_asked(counts, 20)
    assert counts.keys() == {"slates"}, "none was degraded"
    assert pids(secured) == before
    assert load_pem_x509_certificates(trusts.read_bytes()) == [signer.certificate]
    assert old != signer.certificate
    stranger = TlsFiles(leaving / "operator.crt", leaving / "operator.key", trusts)
    for role, port in places(secured):
        if role != "edge":
            assert secured.health(port, stranger, role) is grpc.StatusCode.UNAVAILABLE


def test_another_key_signs_tokens_and_no_slate_is_lost(secured: SecuredStack) -> None:
    file, old = secured.folder.jwks, secured.folder.jwks.read_text()
    key = ec.generate_private_key(ec.SECP256R1())
    fresh = public_jwk(key)
    before = secured.tokens.good(subject="token", seconds=3600)
    claims = jwt.decode(before, options={"verify_signature": False})
    after = jwt.encode(claims, key, "ES256", {"kid": fresh["kid"]})
    in_use = [before]

    def publish(*keys: dict[str, str]) -> None:
        file.with_suffix(".new").write_text(json.dumps({"keys": keys}))
        file.with_suffix(".new").replace(file)

    try:
        with asking(lambda: secured.recommend(in_use[-1])) as counts:
            publish(*json.loads(old)["keys"], fresh)
            wait_until(lambda: secured.code(after) is grpc.StatusCode.OK)
            in_use.append(after)
            until_asked(counts, 2)
            publish(fresh)
            wait_until(lambda: secured.code(before) is grpc.StatusCode.UNAUTHENTICATED)
            until_asked(counts, 10)
    finally:
        publish(*json.loads(old)["keys"])
        wait_until(lambda: secured.code(before) is grpc.StatusCode.OK)


def test_redis_gets_another_password_and_no_slate_is_lost(
    secured: SecuredStack, redis_server: RunningRedis
) -> None:
    before = pids(secured)
    token = secured.tokens.good(subject="redis", seconds=3600)
    with asking(lambda: secured.recommend(token)) as counts:
        old = redis.Redis.from_url(redis_server.url)
        old.acl_setuser("vireo", enabled=True, passwords=["+another"])
        url = redis_server.url.replace(PASSWORD, "another")
        secured.vireo("restart", "gateway", "consumer", VIREO_REDIS_URL=url)
        old.acl_setuser("vireo", enabled=True, passwords=[f"-{PASSWORD}"])
        old.client_kill_filter(_type="normal", skipme=True)
        until_asked(counts, 20)
    assert counts.keys() == {"slates"}, "none was degraded"
    changed = {name for name, pid in pids(secured).items() if pid != before[name]}
    assert changed == {"gateway-1", "gateway-2", "consumer-1"}
