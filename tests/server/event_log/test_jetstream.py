"""What JetStream keeps to beyond every log's contract, and what happens when a server fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import structlog
from nats.aio.client import Client
from pydantic import SecretStr

from tests.builders.certificates import authority, signed
from tests.builders.nats import RunningNats, running_cluster, running_nats, settings_of
from tests.builders.reading import append, take
from tests.builders.samples import sample
from tests.builders.waiting import until
from vireo.server.event_log import connection
from vireo.server.event_log.connection import Connection
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, EVENTS, STATE, Entry, LogAwayError


async def test_the_same_id_is_stored_once(log: JetStreamLog) -> None:
    first = await log.append(EVENTS, "once", b"a", dedup_id="id")
    assert await log.append(EVENTS, "once", b"a", dedup_id="id") == first
    assert len(await take(log, EVENTS, "once")) == 1


async def test_of_a_compacted_stream_only_the_last_of_each_key_is_kept(log: JetStreamLog) -> None:
    for number in range(10):
        await log.append(CATALOG, "a", b"%d" % number)
        await log.append(CATALOG, "b", b"%d" % number)
    assert [(each.key, each.data) for each in await take(log, CATALOG)] == [
        ("a", b"9"),
        ("b", b"9"),
    ]


@asynccontextmanager
async def nothing_is_lost(log: JetStreamLog, key: str) -> AsyncIterator[Mapping[int, bytes]]:
    """Append events amid a block; those that are acknowledged are each read once, in order."""
    acknowledged: dict[int, bytes] = {}
    read: list[Entry] = []

    async def write(writer: int) -> None:
        for number in range(250):
            data = b"%s-%d-%d" % (key.encode(), writer, number)
            acknowledged[await append(log, key, data, data.decode())] = data

    async def follow() -> None:
        async for entries in log.read(EVENTS, key):
            read.extend(entries)

    reader = asyncio.create_task(follow())
    writers = [asyncio.create_task(write(number)) for number in range(4)]
    yield acknowledged
    await asyncio.gather(*writers)
    await until(lambda: len(read) >= 1_000)
    reader.cancel()
    assert {entry.sequence: entry.data for entry in read} == acknowledged
    assert [entry.sequence for entry in read] == sorted(acknowledged)


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    nats: RunningNats, log: JetStreamLog
) -> None:
    async with nothing_is_lost(log, "killed") as acknowledged:
        for enough in (100, 300, 500):
            await until(partial(lambda count: len(acknowledged) >= count, enough))
            nats.kill()
            await asyncio.to_thread(nats.start)


async def test_nothing_acknowledged_is_lost_when_the_leader_of_a_cluster_is_killed(
    tmp_path: Path,
) -> None:
    """Whichever server has the readers; two of three go on."""
    with running_cluster(tmp_path) as servers:
        log = JetStreamLog(settings_of(*servers, event_replicas=3))
        await append(log, "first", b"first", "first")
        cluster = (await log.describe(EVENTS))["cluster"]
        assert len(cluster["replicas"]) == 2
        async with nothing_is_lost(log, "0") as acknowledged:
            await until(lambda: len(acknowledged) >= 200)
            names = [each.configuration["server_name"] for each in servers]
            servers[names.index(cluster["leader"])].kill()
        await log.close()


async def test_an_append_fails_at_once_while_the_server_is_away(
    nats: RunningNats, log: JetStreamLog
) -> None:
    await log.append(EVENTS, "away", b"before")
    nats.kill()
    begun = asyncio.get_running_loop().time()
    for _ in range(100):
        with pytest.raises(LogAwayError, match=r"Connect call failed|connection"):
            await log.append(EVENTS, "away", b"while")
    assert asyncio.get_running_loop().time() - begun < 5  # a hundred timeouts take 200 s
    await asyncio.to_thread(nats.start)
    await append(log, "away", b"after", "after")
    assert [each.data for each in await take(log, EVENTS, "away")] == [b"before", b"after"]


async def test_appends_under_way_fail_with_the_connection_and_leave_the_next_one_alone(
    nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long they might wait for an answer."""
    for each, name in ((JetStreamLog, "_answered"), (Connection, "ask")):
        monkeypatch.setattr(each, name, partialmethod(getattr(each, name), seconds=600.0))
    log = JetStreamLog(settings_of(nats, nats))  # another address, so servers may be left
    with structlog.testing.capture_logs() as logs:
        await log.append(EVENTS, "lost", b"before")
        nats.hang()
        appends = [asyncio.create_task(log.append(EVENTS, "lost", b"while")) for _ in range(10)]
        await asyncio.sleep(0)
        nats.kill()
        await asyncio.to_thread(nats.start)
        await append(log, "lost", b"after", "lost-after")
        async with asyncio.timeout(60):
            failed = await asyncio.gather(*appends, return_exceptions=True)
        assert all(isinstance(each, LogAwayError) for each in failed)
        await log.append(EVENTS, "lost", b"still")
    assert [each["event"] for each in logs].count("connected to the log") == 2
    await log.close()


async def test_a_timeout_is_the_fault_of_the_connection_that_was_asked_alone(
    nats: RunningNats,
) -> None:
    log = JetStreamLog(settings_of(nats, nats))

    async def ask() -> None:
        async with log._answered("read"):
            await log.end(EVENTS)
            raise TimeoutError

    async def time_out() -> Connection:
        with pytest.raises(LogAwayError, match="no answer in time"):
            await ask()
        assert log._connection is not None
        return log._connection

    first = await time_out()
    assert not first.lost.done(), "it has been opened since"
    assert await time_out() is first
    assert first.lost.done()
    await append(log, "0", b"x", "after a timeout")
    await log.close()


async def test_a_server_that_hangs_is_left(nats: RunningNats, log: JetStreamLog) -> None:
    """It may be gone for good, with the connection half open: TCP notices after minutes."""
    hasty = JetStreamLog(settings_of(nats))  # all its callers leave before an append times out
    for each in (log, hasty):
        await each.append(EVENTS, "hangs", b"before")
    before, hasty_before = log._connection, hasty._connection
    assert before is not None
    assert hasty_before is not None

    async def ask_hastily() -> None:
        while not hasty_before.lost.done():
            with contextlib.suppress(TimeoutError, LogAwayError):
                async with asyncio.timeout(0.2):
                    await hasty.append(EVENTS, "hangs", b"while")
            await asyncio.sleep(0.01)

    nats.hang()
    try:
        asking = asyncio.create_task(ask_hastily())
        with pytest.raises(LogAwayError, match="no answer in time"):
            await log.append(EVENTS, "hangs", b"while")
        await until(before.lost.done)
        await asyncio.wait_for(asking, 60)
    finally:
        nats.go_on()
    for number, each in enumerate((log, hasty)):
        await append(each, "hangs", b"after", f"hangs-after-{number}")
    await hasty.close()


async def test_a_stream_that_is_deleted_is_made_again_by_the_next_append(log: JetStreamLog) -> None:
    await log.append(EVENTS, "deleted", b"x")
    assert log._connection is not None
    await log._connection.ask("$JS.API.STREAM.DELETE.vireo_events")
    assert await log.append(EVENTS, "deleted", b"y") == 1


async def test_a_user_takes_over_from_another_and_no_message_is_refused(tmp_path: Path) -> None:
    def signed_in(name: str) -> JetStreamLog:
        return JetStreamLog(settings_of(server, nats_user=name, nats_token=SecretStr(f"of-{name}")))

    def let_in(*names: str) -> None:
        """From now on the server asks for one of these users, and ends others' connections."""
        users = [{"user": name, "password": f"of-{name}"} for name in names]
        server.configuration["authorization"] = {"users": users}
        (tmp_path / "nats.conf").write_text(json.dumps(server.configuration))
        server.process.send_signal(signal.SIGHUP)

    async def appends(log: JetStreamLog) -> bool:
        with contextlib.suppress(LogAwayError):
            return await log.append(STATE, "key", b"data") > 0
        return False

    async def first(log: JetStreamLog) -> None:
        async with asyncio.timeout(60):
            while not await appends(log):  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0.05)

    with running_nats(tmp_path) as server:
        old, new = signed_in("old"), signed_in("new")
        let_in("old")
        await first(old)
        let_in("old", "new")
        await first(new)
        assert await appends(old)
        let_in("new")
        async with asyncio.timeout(60):
            while await appends(old):
                assert await appends(new)
        assert await appends(new)
        reason = ""
        async with asyncio.timeout(60):
            while "VIREO_NATS_USER" not in reason:  # at first it is that the connection was lost
                with pytest.raises(LogAwayError) as refused:
                    await old.append(STATE, "key", b"data")
                reason = str(refused.value)
        for log in (old, new):
            await log.close()


async def test_a_wrong_token_is_named(nats: RunningNats) -> None:
    log = JetStreamLog(settings_of(nats, nats_token=SecretStr("wrong")))
    with pytest.raises(LogAwayError, match=r"Authorization Violation.*VIREO_NATS_TOKEN"):
        await log.append(EVENTS, "0", b"x")
    await log.close()


async def test_what_a_user_may_not_do_is_named(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        server.kill()
        may = {"publish": {"deny": ["vireo.events.>"]}}
        user = {"user": "reader", "password": "of-reader", "permissions": may}
        server.configuration["authorization"] = {"users": [user]}
        await asyncio.to_thread(server.start)
        log = JetStreamLog(
            settings_of(server, nats_user="reader", nats_token=SecretStr("of-reader"))
        )
        assert await log.end(EVENTS) == 0

        async def ask_on() -> None:
            while True:  # as gateways ask for the log's room
                await log.usage(EVENTS)
                await asyncio.sleep(0.05)

        asking = asyncio.create_task(ask_on())
        with pytest.raises(
            LogAwayError, match=r"(?i)permissions violation.*vireo\.events\.0"
        ) as refused:
            await log.append(EVENTS, "0", b"x")
        assert not isinstance(refused.value.__cause__, TimeoutError), "the server isn't at fault"
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        server.hang()
        with pytest.raises(LogAwayError, match="no answer in time"):
            await log.end(EVENTS)
        server.go_on()
        await log.close()


async def test_a_connection_that_is_closed_isnt_said_to_be_lost(
    nats: RunningNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LOOK_SECONDS", 0)
    opened = await Connection.open(settings_of(nats))
    with structlog.testing.capture_logs() as logs:
        await opened.close()
    assert logs == []


async def fill(log: JetStreamLog, size: int) -> tuple[list[bytes], str]:
    """Append until the log refuses; what it took, and what it said then."""
    taken: list[bytes] = []
    while True:
        data = os.urandom(size)
        try:
            await log.append(EVENTS, "0", data)
        except LogAwayError as error:
            return taken, str(error)
        taken.append(data)


async def test_a_read_only_log_makes_no_stream(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        settings = settings_of(server)
        looking = JetStreamLog(settings, read_only=True)
        assert [await looking.end(EVENTS, "0"), await looking.end(STATE)] == [0, 0]
        await looking.close()
        connection = await Connection.open(settings)
        assert (await connection.ask("$JS.API.STREAM.NAMES"))["total"] == 0
        await connection.close()


async def test_a_full_stream_refuses_and_keeps_the_oldest(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        log = JetStreamLog(settings_of(server, event_max_bytes=1 << 20))
        stored, refusal = await fill(log, 100_000)
        assert "maximum bytes exceeded" in refusal
        assert 0 < len(stored) < 11
        assert [entry.data for entry in await take(log, EVENTS, "0")] == stored
        await log.append(STATE, "progress.0", b"x")  # others aren't touched
        await log.close()


async def test_a_stream_that_the_server_has_no_room_for_says_which_setting(
    tmp_path: Path,
) -> None:
    with running_nats(tmp_path) as server:
        log = JetStreamLog(settings_of(server, event_max_bytes=1 << 40))
        with pytest.raises(LogAwayError, match=r"insufficient storage.*VIREO_EVENT_MAX_BYTES"):
            await log.append(EVENTS, "0", b"x")
        await log.close()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 16 MiB; skips the test for a user who may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Once there is room, the server takes events again after a restart; not before."""
    with small_disk(tmp_path / "disk") as disk, running_nats(disk) as server:
        log = JetStreamLog(settings_of(server))
        acknowledged, _ = await fill(log, 500_000)
        assert acknowledged
        server.kill()
        enlarge = ["mount", "-o", "remount,size=64m", str(disk)]
        await asyncio.to_thread(subprocess.run, enlarge, check=True)
        await asyncio.to_thread(server.start)
        await append(log, "0", b"last", "last")
        read = [entry.data for entry in await take(log, EVENTS, "0")]
        assert read[: len(acknowledged)] == acknowledged
        assert read[-1] == b"last"
        await log.close()


async def test_a_reader_that_is_slow_is_sent_no_more_than_one_request(log: JetStreamLog) -> None:
    for begin in range(0, 1_500, 50):  # all at once take a busy machine longer than one may take
        some = range(begin, begin + 50)
        await asyncio.gather(*(log.append(EVENTS, "slow", b"%d" % each) for each in some))
    reading = log.read(EVENTS, "slow")
    left = 1_500 - len(await anext(reading))

    async def delivered() -> list[int]:
        assert log._connection is not None
        consumers = await log._connection.ask("$JS.API.CONSUMER.LIST.vireo_events")
        return [
            each["delivered"]["consumer_seq"]
            for each in consumers["consumers"]
            if each["config"]["filter_subject"] == "vireo.events.slow"
        ]

    async with asyncio.timeout(60):
        while sum(await delivered()) < 500:
            pass  # a busy server is still sending
    await asyncio.sleep(0.1)
    assert await delivered() == [500]
    while left > 0:
        left -= len(await anext(reading))


async def test_a_connection_that_closes_while_it_is_written_to_is_a_lost_one(
    log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, closing = Client.publish, ["vireo.events.", "CONSUMER.CREATE", "CONSUMER.MSG.NEXT"]

    async def write(client: Client, subject: str, *rest: Any, **named: Any) -> None:
        for each in closing:
            if each in subject:
                closing.remove(each)
                raise RuntimeError("the handler is closed")  # as uvloop has it
        await publish(client, subject, *rest, **named)

    await log.append(EVENTS, "closing", b"before")
    monkeypatch.setattr(Client, "publish", write)
    with pytest.raises(LogAwayError, match="connection"):
        await log.append(EVENTS, "closing", b"while")
    await log.append(EVENTS, "closing", b"after")
    assert [each.data for each in await take(log, EVENTS, "closing")] == [b"before", b"after"]
    assert not closing


async def test_a_connection_is_logged_and_exported_when_it_is_lost_and_when_it_is_back(
    nats: RunningNats, log: JetStreamLog
) -> None:
    connected = partial(sample, "vireo_log_connected")
    with structlog.testing.capture_logs() as logs:
        await append(log, "told", b"x", "told-1")
        assert connected() == 1
        nats.kill()
        await until(lambda: connected() == 0)
        await asyncio.to_thread(nats.start)
        await append(log, "told", b"x", "told-2")
        assert connected() == 1
    assert [each["event"] for each in logs] == [
        "connected to the log",
        "connection to the log lost",
        "connected to the log",
    ]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningNats, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    ours = authority(folder)
    with running_nats(folder / "nats", signed(folder, "server", ours)) as server:
        yield server, ours.certificate


async def test_a_log_behind_tls_is_written_and_read(tls: tuple[RunningNats, Path]) -> None:
    server, certificate = tls
    log = JetStreamLog(settings_of(server, nats_ca=str(certificate)))
    await log.append(EVENTS, "0", b"x")
    assert [each.data for each in await take(log, EVENTS, "0")] == [b"x"]
    await log.close()


async def test_a_certificate_that_others_signed_is_refused(
    tls: tuple[RunningNats, Path], tmp_path: Path
) -> None:
    log = JetStreamLog(settings_of(tls[0], nats_ca=str(authority(tmp_path).certificate)))
    said = ""
    async with asyncio.timeout(60):
        while "certificate" not in said:
            with pytest.raises(LogAwayError) as refused:
                await log.append(EVENTS, "0", b"x")
            said = str(refused.value)
            assert "certificate" in said or "no answer in time" in said  # of a busy machine
    await log.close()


async def test_a_server_without_tls_does_not_see_the_token_if_tls_is_wanted(
    nats: RunningNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    token = Connection._token

    def remember(connection: Connection) -> str:
        sent.append(token(connection))
        return sent[-1]

    monkeypatch.setattr(Connection, "_token", remember)
    log = JetStreamLog(settings_of(nats, nats_ca=str(authority(tmp_path).certificate)))
    with pytest.raises(LogAwayError, match="secure connection"):
        await log.append(EVENTS, "0", b"x")
    assert sent == []
    await log.close()
