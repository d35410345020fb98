"""What probes learn by HTTP of a server that asks for certificates."""

import asyncio
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.builders.rpc import rpc_settings
from vireo.ops.stack.ports import free_port_base
from vireo.server.rpc import loop_lag
from vireo.server.rpc.server import RpcServer


def asked(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=60) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()


async def test_a_server_is_ready_while_it_serves_and_lives_all_the_same() -> None:
    port = free_port_base()
    server = RpcServer(rpc_settings(metrics_port=port, drain_seconds=0))
    await server.start()
    try:
        assert await asyncio.to_thread(asked, port, "ready") == (503, "NOT_SERVING")
        assert await asyncio.to_thread(asked, port, "live") == (200, "OK")
        await server.set_serving(True)
        assert await asyncio.to_thread(asked, port, "ready") == (200, "OK")
        status, metrics = await asyncio.to_thread(asked, port, "metrics")
        assert status == 200
        assert "process_cpu_seconds_total" in metrics
    finally:
        await server.drain()


async def test_a_server_whose_event_loop_hangs_neither_lives_nor_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_lag, "_MAX_SILENCE", 0.1)
    port = free_port_base()
    server = RpcServer(rpc_settings(metrics_port=port, drain_seconds=0))
    await server.start()
    try:
        await server.set_serving(True)
        with ThreadPoolExecutor() as others:
            for page in ("live", "ready"):
                answer = others.submit(asked, port, page).result()  # the loop waits, too
                assert answer == (503, "the event loop was silent for 0.1 s")
        assert await asyncio.to_thread(asked, port, "ready") == (200, "OK")
    finally:
        await server.drain()


@pytest.mark.parametrize("count", [16, 100])
async def test_probes_are_answered_while_connections_send_a_byte_at_a_time(count: int) -> None:
    port = free_port_base()
    server = RpcServer(rpc_settings(metrics_port=port, drain_seconds=0))
    await server.start()

    async def trickle() -> None:
        while True:  # again as soon as it is ended
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                begun.release()
                while not writer.is_closing():
                    writer.write(b"G")
                    await writer.drain()
                    await asyncio.sleep(0.02)

    begun = asyncio.Semaphore(0)
    slow = [asyncio.ensure_future(trickle()) for _ in range(count)]
    try:
        await server.set_serving(True)
        for _ in slow:
            await begun.acquire()
        for _ in range(10):
            for page in ("live", "ready"):
                assert await asyncio.to_thread(asked, port, page) == (200, "OK")
    finally:
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        await server.drain()
