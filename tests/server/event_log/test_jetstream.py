"""What JetStream keeps to beyond every log's contract, and what happens when a server fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import structlog
from prometheus_client import REGISTRY
from pydantic import SecretStr

from tests.builders.certificates import authority, signed
from tests.builders.nats import RunningNats, ServerFiles, running_nats, settings_of
from tests.builders.reading import append, take
from tests.builders.waiting import until
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.event_log.log import CATALOG, EVENTS, STATE, Entry, LogAwayError
from vireo.server.event_log.nats_connection import Connection


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


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    nats: RunningNats, log: JetStreamLog
) -> None:
    """Readers go on, and see each message once, in order."""
    acknowledged: dict[int, bytes] = {}
    read: list[Entry] = []

    async def write(writer: int) -> None:
        for number in range(300):
            data = b"%d-%d" % (writer, number)
            acknowledged[await append(log, "killed", data, f"killed-{writer}-{number}")] = data

    def written(count: int) -> bool:
        return len(acknowledged) >= count

    async def follow() -> None:
        async for entries in log.read(EVENTS, "killed"):
            read.extend(entries)

    reader = asyncio.create_task(follow())
    writers = [asyncio.create_task(write(number)) for number in range(4)]
    for _ in range(3):
        enough = min(len(acknowledged) + 100, 1_200)
        await until(partial(written, enough))
        nats.kill()
        await asyncio.to_thread(nats.start)
    await asyncio.gather(*writers)
    await until(lambda: len(read) >= 1_200)
    reader.cancel()
    assert {entry.sequence: entry.data for entry in read} == acknowledged
    assert [entry.sequence for entry in read] == sorted(acknowledged)


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


async def test_the_connection_is_told_of_and_exported_once_when_lost_and_once_when_it_is_back(
    nats: RunningNats, log: JetStreamLog
) -> None:
    def connected() -> float | None:
        return REGISTRY.get_sample_value("vireo_log_connected")

    with structlog.testing.capture_logs() as logs:
        await append(log, "told", b"before", "told-1")
        assert connected() == 1
        nats.kill()
        await until(lambda: connected() == 0)
        await asyncio.to_thread(nats.start)
        await append(log, "told", b"after", "told-2")
        assert connected() == 1
    assert [each["event"] for each in logs] == [
        "connected to the log",
        "connection to the log lost",
        "connected to the log",
    ]


async def test_a_connection_that_takes_long_to_close_does_not_hide_the_next_one(
    nats: RunningNats, log: JetStreamLog
) -> None:
    await log.end(STATE)
    old = log._connection
    assert old is not None
    await old.close()
    await append(log, "next", b"x", "next")
    assert log._connection is not old
    await old._on_closed()  # comes once the server, or a timeout, lets it
    assert REGISTRY.get_sample_value("vireo_log_connected") == 1


async def test_appends_under_way_fail_when_the_connection_is_lost(
    nats: RunningNats, log: JetStreamLog
) -> None:
    await log.append(EVENTS, "lost", b"before")
    nats.hang()
    under_way = asyncio.gather(
        *(log.append(EVENTS, "lost", b"while") for _ in range(10)), return_exceptions=True
    )
    await asyncio.sleep(0)
    nats.kill()
    assert all(isinstance(each, LogAwayError) for each in await under_way)
    await asyncio.to_thread(nats.start)


@pytest.mark.parametrize("patience", [60.0, 0.2], ids=["waits", "every caller leaves sooner"])
async def test_a_server_that_hangs_is_left_however_long_its_callers_wait(
    nats: RunningNats, log: JetStreamLog, patience: float
) -> None:
    """It may be gone for good, with the connection half open: TCP notices after minutes."""
    await log.append(EVENTS, "hangs", b"before")
    before, said = log._connection, set[str]()
    assert before is not None
    nats.hang()
    try:
        async with asyncio.timeout(60):
            while not before.lost.is_set():
                try:
                    async with asyncio.timeout(patience):
                        await log.append(EVENTS, "hangs", b"while")
                except (TimeoutError, LogAwayError) as error:
                    said.add(str(error))
                await asyncio.sleep(0.01)
    finally:
        nats.go_on()
    assert patience < 1 or any("no answer in time" in each for each in said)
    await append(log, "hangs", b"after", f"hangs-{patience}")


async def test_streams_are_made_again_by_a_server_that_lost_its_data(
    nats: RunningNats, log: JetStreamLog
) -> None:
    """Readers read them from their begin."""
    for number in range(10):
        await log.append(EVENTS, "forgotten", b"%d" % number)
    read: list[bytes] = []

    async def follow() -> None:
        async for entries in log.read(EVENTS, "forgotten"):
            read.extend(entry.data for entry in entries)

    reader = asyncio.create_task(follow())
    await until(lambda: len(read) == 10)
    nats.kill()
    nats.forget()
    await asyncio.to_thread(nats.start)
    await append(log, "forgotten", b"new", "new")
    await until(lambda: read[10:] == [b"new"])
    reader.cancel()


async def test_a_server_that_is_away_at_the_start_is_waited_for(
    nats: RunningNats, log: JetStreamLog
) -> None:
    nats.kill()
    with pytest.raises(LogAwayError, match="Connect call failed"):
        await log.end(EVENTS)
    reading = asyncio.create_task(take(log, EVENTS, "late", 0, 1))
    await asyncio.to_thread(nats.start)
    await append(log, "late", b"x", "late")
    assert [each.data for each in await reading] == [b"x"]


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
        stored = list[bytes]()
        for data in (bytes([number]) * 100_000 for number in range(11)):
            with contextlib.suppress(LogAwayError):
                await log.append(EVENTS, "0", data)
                stored.append(data)
        with pytest.raises(LogAwayError, match="maximum bytes exceeded"):
            await log.append(EVENTS, "0", bytes(100_000))
        assert stored
        assert [entry.data for entry in await take(log, EVENTS, "0")] == stored
        await log.append(STATE, "progress.0", b"x")  # others aren't touched
        await log.close()


async def test_a_reader_that_is_slow_is_sent_no_more_than_one_request(log: JetStreamLog) -> None:
    await asyncio.gather(*(log.append(EVENTS, "slow", b"%d" % each) for each in range(1_500)))
    reading = log.read(EVENTS, "slow")
    assert await anext(reading)
    assert log._connection is not None
    consumers = await log._connection.ask("$JS.API.CONSUMER.LIST.vireo_events")
    delivered = [
        each["delivered"]["consumer_seq"]
        for each in consumers["consumers"]
        if each["config"]["filter_subject"] == "vireo.events.slow"
    ]
    assert delivered == [500]
    read = 0
    async for entries in reading:
        read += len(entries)
        if read >= 1_000:
            return


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningNats, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    ours = authority(folder)
    own = signed(folder, "server", ours)
    with running_nats(folder / "nats", ServerFiles(own.certificate, own.key)) as server:
        yield server, ours.certificate


async def test_a_log_behind_tls_is_written_and_read_unless_others_signed_its_certificate(
    tls: tuple[RunningNats, Path], tmp_path: Path
) -> None:
    server, certificate = tls
    log = JetStreamLog(settings_of(server, nats_ca=str(certificate)))
    await log.append(EVENTS, "0", b"x")
    assert [each.data for each in await take(log, EVENTS, "0")] == [b"x"]
    await log.close()
    log = JetStreamLog(settings_of(server, nats_ca=str(authority(tmp_path).certificate)))
    with pytest.raises(LogAwayError, match="certificate"):
        await log.append(EVENTS, "0", b"x")
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
