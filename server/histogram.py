"""A Prometheus histogram that is cheap to observe, for what is measured in every call."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """The observations with one set of labels."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start without observations; `bounds` are the upper bounds of all buckets but the last."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, trace_id: str = "") -> None:
        """Count a value; `trace_id` becomes its bucket's exemplar unless it is empty."""
        place = bisect_left(self._bounds, value)
        self._counts[place] += 1
        self._sum += value
        if trace_id:
            self._exemplars[place] = Exemplar({"trace_id": trace_id}, value, time.time())

    def buckets(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """Return the cumulative buckets, from the lowest to +Inf."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        counts = accumulate([*self._counts])
        exemplars = [self._exemplars.get(place) for place in range(len(bounds))]
        return [
            (bound, count) if exemplar is None else (bound, count, exemplar)
            for bound, count, exemplar in zip(bounds, counts, exemplars, strict=True)
        ]

    @property
    def sum(self) -> float:
        """Sum of the values."""
        return self._sum


class Histogram(Collector):
    """A family of histograms: a fifth of the processor time of the client library's own.

    That one locks twice for each observation, which a process with one event loop needn't: of
    observations that several threads make at once, some get lost.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        """Register a family; without labels its one series is exported from now on.

        Args:
            name: its name, with its unit.
            documentation: its help text.
            labels: names of its labels.
            buckets: upper bounds, ascending, without +Inf.
            registry: where to register it.
        """
        self.name, self.documentation, self.label_names = name, documentation, tuple(labels)
        self._bounds = buckets
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Return the series with these values of the labels, made if it is new."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Series(self._bounds)
        return series

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.label_names)
        for values, series in [*self._series.items()]:
            family.add_metric(values, series.buckets(), series.sum)
        yield family
