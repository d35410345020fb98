"""Counts the ways in which responses are degraded."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter

from vireo.v1 import viewer_pb2

DEGRADATIONS = Counter(
    "vireo_degradations",
    "Degraded responses by kind; mixed_releases: candidates and ranking came from different "
    "releases.",
    ["kind"],
)


def kind_of(degradation: viewer_pb2.Degradation.ValueType) -> str:
    """Return the name of a degradation, for example "mixed_releases"."""
    return viewer_pb2.Degradation.Name(degradation).removeprefix("DEGRADATION_").lower()


def count(degradations: Iterable[viewer_pb2.Degradation.ValueType]) -> None:
    """Count the degradations of a response."""
    for degradation in degradations:
        DEGRADATIONS.labels(kind_of(degradation)).inc()


for _degradation in viewer_pb2.Degradation.values():
    if _degradation:  # so that each is exported as 0 before it happens
        DEGRADATIONS.labels(kind_of(_degradation))
