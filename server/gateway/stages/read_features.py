"""Reads the viewer's features, off the event loop and within its time."""

from __future__ import annotations

import asyncio

from server.features.viewer import ViewerFeatures
from server.gateway.features import FeatureReader
from server.gateway.query import RecommendQuery
from server.gateway.stages.attempt import StageFailedError
from server.rpc.worker import Worker

_SHARE = 0.3
"""Of the time that is left when it starts."""


class ReadFeatures:
    """Reads in the worker thread, so that a slow store holds up no other request."""

    def __init__(self, worker: Worker, timeout: float) -> None:
        """Takes the thread to read in, and the most seconds that a read may take."""
        self._worker = worker
        self._timeout = timeout

    async def __call__(self, query: RecommendQuery, reader: FeatureReader) -> ViewerFeatures:
        """The viewer's features; raises StageFailedError when the store fails or is late."""
        budget = query.deadline.budget(self._timeout, _SHARE)
        try:
            return await asyncio.wait_for(
                self._worker.run(lambda: reader.read(query.viewer_id)), budget
            )
        except TimeoutError as error:
            raise StageFailedError(f"the online store took more than {budget:.3f} s") from error
        except Exception as error:
            # The declared policy: whatever the store raises, the viewer gets a cold-start
            # slate, and the answer says so.
            raise StageFailedError(f"{type(error).__name__}: {error}") from error
