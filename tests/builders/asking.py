"""Slates that are asked for all the while something is done to a stack."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2


@contextmanager
def asking(ask: Callable[[], pb.RecommendResponse]) -> Iterator[Counter[str]]:
    """Ask for slates from a thread until the end, some ten a second; the end asserts that all came.

    Yields how many came so far, and how many with each degradation.
    """
    counts: Counter[str] = Counter()
    failures: list[str] = []
    over = threading.Event()

    def once() -> None:
        try:
            slate = ask()
        except grpc.RpcError as error:
            failures.append(f"{error.code().name}: {error.details()}")
            return
        counts["slates"] += 1
        counts.update(viewer_pb2.Degradation.Name(each) for each in slate.degradations)
        if len(slate.items) != 10:
            failures.append(f"a slate of {len(slate.items)}")

    def run() -> None:
        once()
        while not over.wait(0.1):
            once()
        once()  # as all is in the end

    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(run)
        try:
            yield counts
        finally:
            over.set()
            asked.result()
    assert not failures, failures
