"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, Unpack

import grpc

from vireo_client.base import BaseClient
from vireo_client.calls import RECOMMEND, BatchPart, Call, CallBudget, PageArguments, Sent
from vireo_client.errors import error_of
from vireo_client.slate import Slate, VideoExplanation


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
        request = self._first_page(viewer_id, arguments)
        while True:
            slate: Slate = self._send(self._call(RECOMMEND, lambda: request, arguments))
            yield slate
            if not slate.next_page_token:
                return
            request.page_token = slate.next_page_token

    _grpc = grpc

    def _open(self, opened: Callable[..., Any], interceptors: Sequence[Any]) -> Any:
        return grpc.intercept_channel(opened(), *interceptors)

    def _current_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        if token is not None and not isinstance(token, str):
            raise TypeError("an asynchronous function of tokens is for AsyncClient")
        return token

    def _send(self, call: Call) -> Any:
        request, budget = call.message(), CallBudget(call, self._repeats)
        while True:
            try:
                return call.method.result(
                    self._begin(call, request, self._current_token(), budget.left())
                )
            except grpc.RpcError as failed:
                pause = budget.pause(error_of(failed, call.request_id))
            time.sleep(pause)

    def _stream(self, call: Call) -> Any:
        requests = Sent(call)
        try:
            return call.method.result(self._begin(call, iter(requests), self._current_token()))
        except grpc.RpcError as failed:
            requests.reraise()
            raise error_of(failed, call.request_id) from failed

    def _batch(self, parts: Iterator[BatchPart]) -> Iterator[tuple[str, Slate]]:
        for part in parts:
            pause: float | None = 0.0
            while pause is not None:
                time.sleep(pause)
                responses = self._begin(part.call, part.request, self._current_token())
                try:
                    for response in responses:
                        yield part.take(response)
                    pause = None
                except grpc.RpcError as failed:
                    error = error_of(failed, part.call.request_id)
                    pause = part.pause(error, closed=self._closed)
                finally:
                    responses.cancel()  # if the caller reads no further

    def close(self) -> None:
        """Close the connection; calls in flight fail with CANCELLED."""
        self._closed = True
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
