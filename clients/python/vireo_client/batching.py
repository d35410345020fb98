"""The method of both clients that returns the slates of many viewers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, TypeVar

from vireo_client.batch import BatchAsk
from vireo_client.connection import Connection
from vireo_client.filter import Filter
from vireo_client.request import Metadata, identity

Slates = TypeVar("Slates")
"""An iterator of viewers and their slates, or an asynchronous one."""


class Batching(Connection, Generic[Slates]):
    """Calls for many slates."""

    def batch(
        self,
        viewer_ids: Iterable[str],
        *,
        page_size: int | None = None,
        filter: Filter | None = None,  # noqa: A002
        device: str = "",
        locale: str = "",
        time: datetime | None = None,
        time_zone: str = "",
        region: str = "",
        patience: float = 120.0,
        request_id: str = "",
        metadata: Metadata = (),
    ) -> Slates:
        """Return an iterator of (viewer id, slate) for many viewers, in their order.

        The slates are made while the server has nothing more urgent to do, for mail and push. A
        call that ends early, for example because its gateway restarts, is resumed on another one:
        each viewer comes once, and no slate lacks a stage because of an overload.

        Args:
            viewer_ids: any number of viewers; read by 10,000, as their slates are read.
            page_size: maximum number of videos for each, 1 to 500; 10 if None.
            filter: which videos may be returned; all of them if None.
            device: as for `recommend`.
            locale: as for `recommend`.
            time: when the slates will be shown, with its time zone; now if None.
            time_zone: as for `recommend`.
            region: as for `recommend`.
            patience: maximum seconds for which calls may fail without any slate, before the last
                error is raised.
            request_id: as for `recommend`; the same for all slates.
            metadata: as for `recommend`.

        Raises:
            VireoError: as for `recommend`; the slates before it are whole.
            ValueError: as for `recommend`.
        """
        self._check_open()
        ask = BatchAsk(
            viewer_ids=viewer_ids,
            page_size=page_size,
            filter=filter,
            device=device,
            locale=locale,
            time=time,
            time_zone=time_zone,
            region=region,
            patience=patience,
            request_id=identity(request_id),
            metadata=metadata,
        )
        slates: Slates = self._batch(ask)
        return slates

    def _batch(self, ask: BatchAsk) -> Any:
        """Return an iterator of a batch's viewers and slates."""
        raise NotImplementedError
