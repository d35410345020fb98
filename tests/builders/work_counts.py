"""How many runs were counted, of pipelines and of other work."""

from __future__ import annotations

from tests.builders.samples import sample


class WorkCounts:
    """How far the counters have gone since this was made."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        waiting, running = (
            sample("vireo_work_abandoned_total", when=when) for when in ("waiting", "running")
        )
        return sample("vireo_work_run_total"), waiting, running

    @property
    def since(self) -> tuple[int, ...]:
        """Work that was run, abandoned waiting, abandoned running."""
        return tuple(int(now - then) for now, then in zip(self._now(), self._before, strict=True))
