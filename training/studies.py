"""Studies of `vireo evaluate`, each of which writes a file of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.training.data.dataset import load_dataset
from vireo.training.evaluation import report as files
from vireo.training.evaluation.ablations import check_names, lists_of_test, study_ablations
from vireo.training.evaluation.cold_start import study_cold_start
from vireo.training.evaluation.diversity import study_diversity
from vireo.training.evaluation.report import write_json
from vireo.training.evaluation.sources import MAX_VIEWERS, Proposals, fit_quotas, study_sources
from vireo.training.evaluation.systems import (
    HeldOutPart,
    HeldOutWatches,
    last_held_out,
)
from vireo.training.evaluation.tuning import described, tune_baselines, write_settings
from vireo.training.features.watches import load_watches
from vireo.training.profile import load_profile
from vireo.training.ranking.training_set import RankingSet, load_ranking_set
from vireo.training.run import Run


@dataclass(frozen=True)
class Studies:
    """Studies of a data set's newest release; each writes its file and returns the content.

    Raises:
        VireoError: there is no release, or its run is gone.
    """

    home: Home
    dataset: str
    profile: str
    """Profile whose settings are used for training."""
    console: Console

    @property
    def run(self) -> Run:
        """The newest run."""
        return Run(self.home.run(self.dataset))

    @property
    def _repo(self) -> Path:
        return self.home.features(self.dataset)

    @cached_property
    def _watches(self) -> pd.DataFrame:
        return load_watches(self.home, self.dataset)

    @cached_property
    def _release(self) -> CandidateRelease:
        return CandidateRelease.load(self.run.release)

    def sources(self) -> dict[str, Any]:
        """Measure recall of the candidate sources."""
        return self._written(
            files.SOURCES, self._both(lambda part: study_sources(self._proposals(part)))
        )

    def quotas(self) -> list[dict[str, float]]:
        """Return recall on validation as quotas are raised, the best first; writes no file."""
        count = self._release.manifest.candidates
        return fit_quotas(self._proposals("validation"), count)[::-1]

    def baselines(self) -> dict[str, Any]:
        """Find the baselines' best settings on validation, for later evaluations to use."""
        video_ids = load_dataset(self.home, self.dataset).videos["video_id"].tolist()
        found = tune_baselines(self._watches, video_ids, self.console)
        for name, settings in found.baselines.items():
            self.console.print(f"{name}: {described(settings.chosen)}", soft_wrap=True)
        self.console.print(f"settings: {write_settings(self._repo, found)}", soft_wrap=True)
        return found.model_dump(mode="json")

    def diversity(self) -> dict[str, Any]:
        """Measure slates at each strength of diversity."""
        ranking = RankingRelease.load(self.run.release)
        count = self._release.manifest.candidates
        found = self._both(
            lambda part: study_diversity(
                self._release, ranking, self._held_out(part), count, self._repo
            )
        )
        return self._written(files.DIVERSITY, found)

    def ablations(self, without: Sequence[str]) -> dict[str, Any]:
        """Measure the chain with the ranker retrained without each of these."""
        check_names(without)
        candidates = self._release.manifest.candidates
        config = replace(load_profile(self.profile).ranking, candidates=candidates)
        test = lists_of_test(self._watches, self._repo, self._release, config)
        found = study_ablations(
            without,
            self._ranking_set(),
            test,
            self._release,
            config,
            self.run.checkpoints / "ablations",
            self.run.finished_inputs(),
            self.console,
        )
        return self._written(files.ABLATIONS, found)

    def cold_start(self, minutes: float | None, folds: int) -> dict[str, Any]:
        """Measure towers trained for this on viewers and videos that they have never seen.

        They are trained once for each fold, of at most FOLDS.
        """
        config = load_profile(self.profile).retrieval
        if minutes is not None:
            config = replace(config, max_minutes=minutes)
        tables = load_dataset(self.home, self.dataset)
        found = study_cold_start(
            self._watches,
            tables.videos,
            tables.viewers,
            config,
            self.run.checkpoints / "cold_start",
            self.console,
            folds,
        )
        return self._written(files.COLD_START, found)

    def _ranking_set(self) -> RankingSet:
        data = load_ranking_set(self.run.ranking_set, self.run.finished_inputs())
        if data is None:
            raise VireoError(
                f"{self.run.ranking_set} isn't of the newest release; train again with: "
                f"vireo train --data {self.dataset}"
            )
        return data

    def _held_out(self, part: HeldOutPart, limit: int | None = None) -> HeldOutWatches:
        return last_held_out(self._watches, self._repo, self._release.rows, part, limit)

    def _proposals(self, part: HeldOutPart) -> Proposals:
        return Proposals.gather(self._release, self._held_out(part, MAX_VIEWERS))

    def _both(self, study: Callable[[HeldOutPart], dict[str, Any]]) -> dict[str, Any]:
        """Return the study of the test part if there is one, with that of validation inside."""
        validation = study("validation")
        if not (self._watches["part"] == "test").any():
            return {"part": "validation", **validation}
        return {"part": "test", **study("test"), "validation": validation}

    def _written(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        document = {"release_id": self._release.manifest.release_id, **found}
        write_json(self.run.report, name, document)
        return document
