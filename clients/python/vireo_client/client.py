"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, Unpack, cast

import grpc

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


class Client(BaseClient[Slate, int, Iterator[tuple[str, Slate]], VideoExplanation]):
    """A client of a Vireo stack with one connection, for any number of threads.

    Create one and reuse it. Close it at the end, or use it as a context manager. After a fork
    create a new one.
    """

    def pages(self, viewer_id: str, **arguments: Unpack[PageArguments]) -> Iterator[Slate]:
        """Yield the pages of a slate until there are no more videos; no video is on two of them.

        Each page is requested when it is asked for. Its arguments, and what it raises, are those
        of `recommend`; a `page_token` continues a slate.
        """
        arguments = repeatable(arguments)
        while True:
            slate = self.recommend(viewer_id, **arguments)
            yield slate
            if not slate.next_page_token:
                return
            arguments["page_token"] = slate.next_page_token

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        self._channel = (
            grpc.secure_channel(target, credentials, options)
            if credentials
            else grpc.insecure_channel(target, options)
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[Any, Any]] = {
            each.path: self._channel.unary_unary(
                each.path, each.request.SerializeToString, each.response.FromString
            )
            for each in UNARY
        }
        self._events: grpc.StreamUnaryMultiCallable[Any, Any] = self._channel.stream_unary(
            STREAM_EVENTS.path,
            STREAM_EVENTS.request.SerializeToString,
            STREAM_EVENTS.response.FromString,
        )
        self._batches: grpc.UnaryStreamMultiCallable[Any, Any] = self._channel.unary_stream(
            BATCH.path, BATCH.request.SerializeToString, BATCH.response.FromString
        )

    def _send(self, call: Call[Result]) -> Result:
        self._check_open()
        request = call.message()
        budget = CallBudget(call.timeout, self._repeats, writes=call.method.writes)
        while True:
            try:
                response = self._methods[call.method.path](
                    request,
                    timeout=budget.left(),
                    metadata=call.sent_metadata(),
                    credentials=self._call_credentials(),
                )
            except grpc.RpcError as failed:
                error = _error(cast("grpc.Call", failed), call)
                pause = budget.pause(error)
                if pause is None:
                    raise error from failed
            else:
                return call.method.result(response)
            time.sleep(pause)

    def _stream(self, call: Call[Result]) -> Result:
        self._check_open()
        requests = Sent(call.build())
        try:
            response = self._events(
                requests,
                timeout=call.timeout,
                metadata=call.sent_metadata(),
                credentials=self._call_credentials(),
            )
        except grpc.RpcError as failed:
            requests.reraise(call)
            raise _error(cast("grpc.Call", failed), call) from failed
        return call.method.result(response)

    def _batch(self, ask: BatchAsk) -> Iterator[tuple[str, Slate]]:
        for part in ask.parts():
            pause: float | None = 0.0
            while pause is not None:
                time.sleep(pause)
                self._check_open()
                responses = self._batches(
                    part.request,
                    timeout=part.call.timeout,
                    metadata=part.call.sent_metadata(),
                    credentials=self._call_credentials(),
                )
                try:
                    for response in responses:
                        yield part.take(response)
                    pause = None
                except grpc.RpcError as failed:
                    pause = part.pause(
                        _error(cast("grpc.Call", failed), part.call), closed=self._closed
                    )
                finally:
                    responses.cancel()  # if the caller reads no further

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


def _error(failed: grpc.Call, call: Call[Any]) -> VireoError:
    trailing = failed.trailing_metadata() or ()
    return error_of(failed.code(), failed.details() or "", trailing, call.request_id)
