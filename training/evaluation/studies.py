"""What `vireo evaluate` does besides measuring systems: a study a file of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from server.candidate.release import CandidateRelease
from server.errors import VireoError
from server.home import Home
from server.ranking.release import RankingRelease
from training.data.dataset import load_dataset
from training.evaluation.ablations import (
    ABLATIONS_FILE,
    check_names,
    lists_of_test,
    study_ablations,
)
from training.evaluation.baselines.registry import BASELINES, Config
from training.evaluation.baselines.settings import described, write_settings
from training.evaluation.baselines.tuning import tune_baselines
from training.evaluation.cold_start.study import COLD_START, study_cold_start
from training.evaluation.diversity import DIVERSITY_FILE, study_diversity
from training.evaluation.held_out import HeldOutPart, last_held_out
from training.evaluation.leaks import check_inputs, check_made
from training.evaluation.report import write_json
from training.evaluation.sources import SOURCES_FILE, Proposals, study_sources, tune_quotas
from training.features.watches import load_watches
from training.heartbeat import Bars
from training.profile import load_profile
from training.ranking.storage import load_ranking_set
from training.ranking.training_set import RankingSet
from training.retrieval.data import RetrievalData
from training.run import Run


@dataclass(frozen=True)
class Studies:
    """Studies of the newest release of a data set; each writes its file and returns what it holds.

    Raises:
        VireoError: there is no release, or the run that made it is gone.
    """

    home: Home
    dataset: str
    profile: str
    """Whose settings are trained with where a study trains."""
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
        """What each candidate source finds: on validation, and on test for the report."""
        return self._written(
            SOURCES_FILE, self._both(lambda part: study_sources(self._asked(part)))
        )

    def quotas(self) -> list[dict[str, float]]:
        """Recall on validation of many quotas, the best first; no file."""
        return tune_quotas(self._asked("validation"), self._release.manifest.candidates)

    def baselines(self) -> dict[str, Any]:
        """The baselines' best settings on validation; evaluations read them from here on."""
        videos = load_dataset(self.home, self.dataset).videos
        with Bars(console=self.console, transient=True) as bars:
            task = bars.add_task("tuning", total=len(BASELINES))

            def trying(name: str, _config: Config) -> None:
                place = BASELINES.index(name)
                bars.update(task, description=f"tuning {name}", completed=place)

            found = tune_baselines(self._watches, videos["video_id"].tolist(), trying)
        for name, settings in found.baselines.items():
            self.console.print(f"{name}: {described(settings.chosen)}", soft_wrap=True)
        self.console.print(f"settings: {write_settings(self._repo, found)}", soft_wrap=True)
        return found.model_dump(mode="json")

    def diversity(self) -> dict[str, Any]:
        """The curve of diversity, on validation and on test."""
        ranking = RankingRelease.load(self.run.release)
        count = self._release.manifest.candidates

        def study(part: HeldOutPart) -> dict[str, Any]:
            held_out = last_held_out(self._watches, self._repo, self._release.rows, part)
            return study_diversity(self._release, ranking, held_out, count)

        return self._written(DIVERSITY_FILE, self._both(study))

    def ablations(self, without: Sequence[str]) -> dict[str, Any]:
        """The chain with the ranker trained again without each."""
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
        return self._written(ABLATIONS_FILE, found)

    def cold_start(self, minutes: float | None) -> dict[str, Any]:
        """Viewers and videos that towers, trained for this, have never seen.

        One pair of towers, whatever the profile has: it takes part of the time, and simpler
        systems are what it is compared with.
        """
        config = replace(load_profile(self.profile).retrieval, members=1)
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
        )
        return self._written(COLD_START, found)

    def leaks(self) -> None:
        """Checks features, towers' data, release and ranking set; raises LeakError."""
        tables = load_dataset(self.home, self.dataset)
        data = RetrievalData.build(self._watches, tables.videos, tables.viewers)
        check_inputs(self._watches, data, self._repo)
        viewers = load_profile(self.profile).ranking.viewers
        check_made(self._watches, data, self.run.release, self._ranking_set(), viewers)

    def _ranking_set(self) -> RankingSet:
        data = load_ranking_set(self.run.ranking_set, self.run.finished_inputs())
        if data is None:
            raise VireoError(
                f"{self.run.ranking_set} isn't of the newest release; train again with: "
                f"vireo train --data {self.dataset}"
            )
        return data

    def _asked(self, part: HeldOutPart) -> Proposals:
        held_out = last_held_out(self._watches, self._repo, self._release.rows, part)
        return Proposals.gather(self._release, held_out)

    def _both(self, study: Callable[[HeldOutPart], dict[str, Any]]) -> dict[str, Any]:
        """The study of the test part where there is one, with that of validation within it."""
        validation = study("validation")
        if not (self._watches["part"] == "test").any():
            return {"part": "validation", **validation}
        return {"part": "test", **study("test"), "validation": validation}

    def _written(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        document = {"release_id": self._release.manifest.release_id, **found}
        write_json(self.run.report, name, document)
        return document
