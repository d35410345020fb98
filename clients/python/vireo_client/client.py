"""The synchronous client."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self, cast

import grpc

from vireo_client.base import BaseClient
from vireo_client.budget import CallBudget
from vireo_client.channel import Options
from vireo_client.errors import VireoError, error_of
from vireo_client.messages import RECOMMEND, RecommendRequest, RecommendResponse
from vireo_client.request import Ask
from vireo_client.slate import Slate, slate_of


class Client(BaseClient[Slate]):
    """A client of a Vireo stack with one connection, for any number of threads.

    Create one and reuse it. Close it at the end, or use it as a context manager. After a fork
    create a new one.
    """

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        self._channel = (
            grpc.secure_channel(target, credentials, options)
            if credentials
            else grpc.insecure_channel(target, options)
        )
        self._method: grpc.UnaryUnaryMultiCallable[RecommendRequest, RecommendResponse] = (
            self._channel.unary_unary(
                RECOMMEND, RecommendRequest.SerializeToString, RecommendResponse.FromString
            )
        )

    def _send(self, ask: Ask) -> Slate:
        self._check_open()
        request = ask.message()
        budget = CallBudget(ask.timeout, self._repeats)
        while True:
            try:
                response = self._method(
                    request,
                    timeout=budget.left(),
                    metadata=ask.sent_metadata(),
                    credentials=self._call_credentials(),
                )
            except grpc.RpcError as failed:
                error = _error(cast("grpc.Call", failed), ask)
                pause = budget.pause(error)
                if pause is None:
                    raise error from failed
            else:
                return slate_of(response)
            time.sleep(pause)

    def close(self) -> None:
        """Close the connection; calls in flight fail with CANCELLED."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _error(call: grpc.Call, ask: Ask) -> VireoError:
    trailing = call.trailing_metadata() or ()
    return error_of(call.code(), call.details() or "", trailing, ask.request_id)
