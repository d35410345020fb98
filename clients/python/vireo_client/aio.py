"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from vireo_client.base import BaseClient
from vireo_client.batch import BatchAsk
from vireo_client.budget import CallBudget
from vireo_client.channel import Options
from vireo_client.errors import VireoError, error_of
from vireo_client.explanation import VideoExplanation
from vireo_client.methods import BATCH, STREAM_EVENTS, UNARY, Result
from vireo_client.request import Call, PageArguments, repeatable
from vireo_client.slate import Slate
from vireo_client.streams import Sent


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
        arguments = repeatable(arguments)
        while True:
            slate = await self.recommend(viewer_id, **arguments)
            yield slate
            if not slate.next_page_token:
                return
            arguments["page_token"] = slate.next_page_token

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        asyncio.get_running_loop()
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {
            each.path: self._channel.unary_unary(
                each.path, each.request.SerializeToString, each.response.FromString
            )
            for each in UNARY
        }
        self._events: grpc.aio.StreamUnaryMultiCallable[Any, Any] = self._channel.stream_unary(
            STREAM_EVENTS.path,
            STREAM_EVENTS.request.SerializeToString,
            STREAM_EVENTS.response.FromString,
        )
        self._batches: grpc.aio.UnaryStreamMultiCallable[Any, Any] = self._channel.unary_stream(
            BATCH.path, BATCH.request.SerializeToString, BATCH.response.FromString
        )

    async def _send(self, call: Call[Result]) -> Result:
        self._check_open()
        request = call.message()
        budget = CallBudget(call.timeout, self._repeats, writes=call.method.writes)
        while True:
            try:
                response = await self._methods[call.method.path](
                    request,
                    timeout=budget.left(),
                    metadata=call.sent_metadata(),
                    credentials=self._call_credentials(),
                )
            except grpc.aio.AioRpcError as failed:
                error = _error(failed, call)
                pause = budget.pause(error)
                if pause is None:
                    raise error from failed
            except asyncio.CancelledError:
                self._raise_if_closed(call)
                raise
            else:
                return call.method.result(response)
            await asyncio.sleep(pause)

    async def _stream(self, call: Call[Result]) -> Result:
        self._check_open()
        requests = Sent(call.build())
        try:
            response = await self._events(
                requests,
                timeout=call.timeout,
                metadata=call.sent_metadata(),
                credentials=self._call_credentials(),
            )
        except grpc.aio.AioRpcError as failed:
            requests.reraise(call)
            raise _error(failed, call) from failed
        except asyncio.CancelledError:
            requests.reraise(call)
            self._raise_if_closed(call)
            raise
        return call.method.result(response)

    async def _batch(self, ask: BatchAsk) -> AsyncIterator[tuple[str, Slate]]:
        for part in ask.parts():
            pause: float | None = 0.0
            while pause is not None:
                await asyncio.sleep(pause)
                self._check_open()
                responses = self._batches(
                    part.request,
                    timeout=part.call.timeout,
                    metadata=part.call.sent_metadata(),
                    credentials=self._call_credentials(),
                )
                try:
                    async for response in responses:
                        yield part.take(response)
                    pause = None
                except grpc.aio.AioRpcError as failed:
                    pause = part.pause(_error(failed, part.call), closed=self._closed)
                except asyncio.CancelledError:
                    self._raise_if_closed(part.call)
                    raise
                finally:
                    responses.cancel()  # if the caller reads no further

    def _raise_if_closed(self, call: Call[Any]) -> None:
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
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _error(failed: grpc.aio.AioRpcError, call: Call[Any]) -> VireoError:
    trailing = failed.trailing_metadata() or ()
    return error_of(failed.code(), failed.details() or "", trailing, call.request_id)
