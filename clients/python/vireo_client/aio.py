"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from vireo_client.base import BaseClient
from vireo_client.calls import RECOMMEND, BatchPart, Call, CallBudget, PageArguments, Sent
from vireo_client.errors import DeadlineExceeded, VireoError, error_of
from vireo_client.slate import Slate, VideoExplanation


class AsyncClient(
    BaseClient[
        Coroutine[Any, Any, Slate],
        Coroutine[Any, Any, int],
        AsyncIterator[tuple[str, Slate]],
        Coroutine[Any, Any, VideoExplanation],
    ]
):
    """A client of a Vireo stack with one connection, for any number of tasks of one event loop.

    Create one in the running loop, else it raises RuntimeError, and reuse it. Close it at the
    end, or use it as an asynchronous context manager.
    """

    async def pages(
        self, viewer_id: str, **arguments: Unpack[PageArguments]
    ) -> AsyncIterator[Slate]:
        """Yield the pages of a slate until there are no more videos; no video is on two of them.

        Each page is requested when it is asked for. Its arguments, and what it raises, are those
        of `recommend`; a `page_token` continues a slate.
        """
        request = self._first_page(viewer_id, arguments)
        while True:
            slate: Slate = await self._send(self._call(RECOMMEND, lambda: request, arguments))
            yield slate
            if not slate.next_page_token:
                return
            request.page_token = slate.next_page_token

    _grpc = grpc.aio

    def _open(self, opened: Callable[..., Any], interceptors: Sequence[Any]) -> Any:
        asyncio.get_running_loop()
        return opened(interceptors=interceptors)

    async def _current_token(self, call: Call, seconds: float | None) -> str | None:
        """Return the token; raise DeadlineExceeded if that takes longer than the call may."""
        token = self._token() if callable(self._token) else self._token
        if token is None or isinstance(token, str):
            return token
        try:
            async with asyncio.timeout(seconds):
                return await token
        except TimeoutError as late:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise DeadlineExceeded(code, "no token came in time", call.request_id) from late

    async def _send(self, call: Call) -> Any:
        request, budget = call.message(), CallBudget(call, self._repeats)
        while True:
            try:
                return call.method.result(
                    await self._begin(
                        call,
                        request,
                        await self._current_token(call, budget.left()),
                        budget.left(),
                    )
                )
            except grpc.aio.AioRpcError as failed:
                pause = budget.pause(error_of(failed, call.request_id))
            except asyncio.CancelledError:
                self._raise_if_closed(call)
                raise
            await asyncio.sleep(pause)

    async def _stream(self, call: Call) -> Any:
        requests = Sent(call)
        try:
            return call.method.result(
                await self._begin(
                    call, iter(requests), await self._current_token(call, call.timeout)
                )
            )
        except grpc.aio.AioRpcError as failed:
            requests.reraise()
            raise error_of(failed, call.request_id) from failed
        except asyncio.CancelledError:
            requests.reraise()
            self._raise_if_closed(call)
            raise

    async def _batch(self, parts: Iterator[BatchPart]) -> AsyncIterator[tuple[str, Slate]]:
        for part in parts:
            pause: float | None = 0.0
            while pause is not None:
                await asyncio.sleep(pause)
                token = await self._current_token(part.call, part.call.timeout)
                responses = self._begin(part.call, part.request, token)
                try:
                    async for response in responses:
                        yield part.take(response)
                    pause = None
                except grpc.aio.AioRpcError as failed:
                    error = error_of(failed, part.call.request_id)
                    pause = part.pause(error, closed=self._closed)
                except asyncio.CancelledError:
                    self._raise_if_closed(part.call)
                    raise
                finally:
                    responses.cancel()  # if the caller reads no further

    def _raise_if_closed(self, call: Call) -> None:
        """Raise if the client was closed, which cancels calls, and the task wasn't cancelled."""
        task = asyncio.current_task()
        if self._closed and not (task and task.cancelling()):
            code = grpc.StatusCode.CANCELLED
            raise VireoError(code, "the client was closed", call.request_id) from None

    async def close(self, grace: float | None = None) -> None:
        """Close the connection.

        Args:
            grace: seconds to wait for calls in flight; the rest, or all if None, fail with
                CANCELLED.
        """
        self._closed = True
        if self._owns_channel:
            await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
