from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.exposition import generate_latest

from vireo.server import histogram

BUCKETS = (0.1, 0.5, 1)
VALUES = (0.05, 0.1, 0.1001, 0.7, 1, 3)


def text(registry: CollectorRegistry) -> list[str]:
    return [
        line
        for line in generate_latest(registry).decode().splitlines()  # type: ignore[no-untyped-call]
        if "_created" not in line
    ]


def test_it_exports_what_the_client_library_does() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    own = histogram.Histogram("took_seconds", "Time.", ["way"], buckets=BUCKETS, registry=ours)
    library = Histogram("took_seconds", "Time.", ["way"], buckets=BUCKETS, registry=theirs)
    for value in VALUES:
        own.labels("there").observe(value)
        library.labels("there").observe(value)
    assert text(ours) == text(theirs)


def test_without_labels_it_is_exported_before_its_first_observation() -> None:
    registry = CollectorRegistry()
    histogram.Histogram("took_seconds", "Time.", buckets=BUCKETS, registry=registry)
    assert registry.get_sample_value("took_seconds_count") == 0


def test_a_bucket_names_the_latest_trace_that_fell_into_it() -> None:
    registry = CollectorRegistry()
    family = histogram.Histogram("took_seconds", "Time.", buckets=BUCKETS, registry=registry)
    family.labels().observe(0.2, "a" * 32)
    family.labels().observe(0.3, "b" * 32)
    family.labels().observe(0.4)  # isn't sampled
    [line] = [line for line in text(registry) if "trace_id" in line]
    assert line.startswith('took_seconds_bucket{le="0.5"} 3.0 # {trace_id="bbbbbbbb')
    assert " 0.3 " in line
