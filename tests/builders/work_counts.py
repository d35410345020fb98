"""How many runs were counted, of pipelines and of other work."""

from __future__ import annotations

from prometheus_client import REGISTRY


def counted(name: str, **labels: str) -> float:
    """Value of one of the counters of runs."""
    value = REGISTRY.get_sample_value(f"vireo_work_{name}_total", labels)
    assert value is not None
    return value


class WorkCounts:
    """How far the counters have gone since this was made."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        waiting, running = (counted("abandoned", when=when) for when in ("waiting", "running"))
        return counted("run"), waiting, running

    @property
    def since(self) -> tuple[int, ...]:
        """Work that was run, abandoned waiting, abandoned running."""
        return tuple(int(now - then) for now, then in zip(self._now(), self._before, strict=True))
