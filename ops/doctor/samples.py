"""Pages of metrics, read and parsed."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from vireo.ops.doctor.facts import Labels, Samples


def parse(text: str) -> Samples:
    """Return the samples of a page in Prometheus' text format.

    Raises:
        ValueError: it isn't one.
    """
    found: dict[str, list[tuple[Labels, float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return {name: tuple(many) for name, many in found.items()}
