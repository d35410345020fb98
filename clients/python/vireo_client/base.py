"""The base of both clients: a connection and the methods."""

from __future__ import annotations

from typing import Generic

from vireo_client.batching import Batching, Slates
from vireo_client.explaining import Explained, Explaining
from vireo_client.recommending import Answer, Recommending
from vireo_client.recording import Count, Recording


class BaseClient(
    Recommending[Answer],
    Batching[Slates],
    Recording[Count],
    Explaining[Explained],
    Generic[Answer, Count, Slates, Explained],
):
    """One connection to a Vireo stack, for any number of calls."""
