"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from vireo_client.base import BaseClient
from vireo_client.budget import CallBudget
from vireo_client.channel import Options
from vireo_client.errors import VireoError, error_of
from vireo_client.messages import RECOMMEND, RecommendRequest, RecommendResponse
from vireo_client.request import Ask
from vireo_client.slate import Slate, slate_of


class AsyncClient(BaseClient[Coroutine[Any, Any, Slate]]):
    """A client of a Vireo stack with one connection, for any number of tasks of one event loop.

    Create one in the running loop, else it raises RuntimeError, and reuse it. Close it at the
    end, or use it as an asynchronous context manager.
    """

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        asyncio.get_running_loop()
        self._channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self._method: grpc.aio.UnaryUnaryMultiCallable[RecommendRequest, RecommendResponse] = (
            self._channel.unary_unary(
                RECOMMEND, RecommendRequest.SerializeToString, RecommendResponse.FromString
            )
        )

    async def _send(self, ask: Ask) -> Slate:
        self._check_open()
        request = ask.message()
        budget = CallBudget(ask.timeout, self._repeats)
        while True:
            try:
                response = await self._method(
                    request,
                    timeout=budget.left(),
                    metadata=ask.sent_metadata(),
                    credentials=self._call_credentials(),
                )
            except grpc.aio.AioRpcError as failed:
                trailing = failed.trailing_metadata() or ()
                error = error_of(failed.code(), failed.details() or "", trailing, ask.request_id)
                pause = budget.pause(error)
                if pause is None:
                    raise error from failed
            except asyncio.CancelledError:
                # Closing the channel cancels the call: distinguish that from a cancelled task.
                task = asyncio.current_task()
                if not self._closed or (task and task.cancelling()):
                    raise
                code = grpc.StatusCode.CANCELLED
                raise VireoError(code, "the client was closed", ask.request_id) from None
            else:
                return slate_of(response)
            await asyncio.sleep(pause)

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
