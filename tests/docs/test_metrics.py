"""The table of metrics names every metric that the code declares, as it is declared."""

from __future__ import annotations

from importlib import import_module

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from tests.builders.metrics_table import PROCESSES, documented

# All that processes import; metrics are registered at import.
for _module in (
    "candidate.service",
    "consumer.consumer",
    "control.control",
    "event_log.jetstream",
    "gateway.service",
    "ranking.service",
):
    import_module(f"vireo.server.{_module}")


def declared() -> dict[str, tuple[str, frozenset[str], str]]:
    """Type, labels and help text of each metric that a module declares, by its name."""
    found = {}
    for collector in [*REGISTRY._collector_to_names]:
        if isinstance(collector, MetricWrapperBase):
            kind, name = str(collector._type), collector._name
            labels, text = frozenset(collector._labelnames), collector._documentation
            if name.startswith("vireo_"):
                found[f"{name}_total" if kind == "counter" else name] = kind, labels, text
    return found


def test_every_declared_metric_is_documented_with_its_type_and_labels() -> None:
    rows, metrics = documented(), declared()
    assert len(metrics) > 40
    assert {name: (rows[name].kind, rows[name].labels) for name in metrics if name in rows} == {
        name: (kind, labels) for name, (kind, labels, _) in metrics.items()
    }


def test_names_types_and_units_follow_the_conventions_of_prometheus() -> None:
    for row in documented().values():
        assert row.name.startswith("vireo_")
        assert row.kind in ("counter", "gauge", "histogram"), row
        assert (row.kind == "counter") == row.name.endswith("_total"), row
        assert row.processes, row
        assert row.processes <= set(PROCESSES), row
        assert row.meaning, row
