"""The ranking pipeline: the caller's candidates, the model's scores, a diverse selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.recommend.ranking.query import Ranking, RankingQuery
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.ranking.reserved import DiverseBestAndReserved
from vireo.server.recommend.ranking.stages import SCORE, RankerScorer, RequestedSource
from vireo.server.recommend.runner import Caller, Observer, Pipeline, Run

log = structlog.get_logger()

__all__ = ["RankedCandidates", "RankingPipeline", "RankingQuery"]


@dataclass(frozen=True)
class RankedCandidates:
    """The best candidates in columns, best first."""

    keys: Int64Array
    """int64[m]."""
    rows: Int64Array
    """Rows in the release's `videos`, int64[m]; -1 for a key that it doesn't know."""
    scores: Float32Array
    """The score that orders them, apart from diversity, float32[m]."""
    tasks: Mapping[str, Float32Array]
    """Probability of each task of the release, float32[m]."""
    source_masks: npt.NDArray[np.uint32]
    """uint32[m]."""
    unknown: int
    """Number of candidates, ranked or not, that the release doesn't know."""
    capped: Sequence[int] = ()
    """Number of candidates that each cap of the site's rules kept off the page."""


class RankingPipeline:
    """Ranks with one release. Safe to use from several threads."""

    def __init__(self, release: RankingRelease, observer: Observer | None = None) -> None:
        """Rank with `release`; `observer` is told of stages' times and failures."""
        self.release = release
        self._observer = observer or Observer()
        self._pipeline: Pipeline[Ranking] = Pipeline(
            sources=(RequestedSource(),),
            scorers=(RankerScorer(),),
            selector=DiverseBestAndReserved(),
        )

    def rank(self, query: RankingQuery, caller: Caller | None = None) -> RankedCandidates:
        """Return the best `page_size` of the query's candidates.

        Raises:
            CallerGoneError: the caller has gone.
            ModelOutputError: a score isn't finite.
        """
        ranking = Ranking.of(self.release, query)
        selected = self._pipeline.run(ranking, Run(self._observer, caller or Caller()))
        if unknown := int(np.count_nonzero(selected.rows < 0)):
            log.warning(
                "page has candidates that the release doesn't know",
                unknown=unknown,
                release=self.release.manifest.release_id,
            )
        return RankedCandidates(
            keys=selected.keys,
            rows=selected.rows,
            scores=selected.scores[SCORE],
            tasks={
                name: selected.scores[name] for name in self.release.manifest.feature_schema.tasks
            },
            source_masks=selected.source_masks,
            unknown=int(np.count_nonzero(ranking.rows < 0)),
            capped=ranking.caps.kept_off,
        )
