"""Inputs of a fit: one split of a data set, its features and its watches."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from rich.console import Console

from vireo.server.candidate.release import CandidateRelease
from vireo.server.home import Home
from vireo.server.releases.manifest import FORMAT_VERSION, FeatureSchema
from vireo.server.releases.memory import return_memory
from vireo.server.releases.weights import Quotas
from vireo.training.data.dataset import Dataset, describe_dataset
from vireo.training.data.split import Holdout
from vireo.training.features.build import build_features
from vireo.training.features.online_store import OnlineStoreSettings
from vireo.training.features.progress import progress_bars
from vireo.training.features.watches import FeaturesMissingError, Split, load_watches
from vireo.training.profile import Profile
from vireo.training.release.stage import Origin, stage_retrieval
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower
from vireo.training.run import Run, fingerprint


def ensure_features(home: Home, dataset: Dataset, holdout: Holdout, console: Console) -> Split:
    """Return the features' split; build the features if missing or built from other data."""
    wanted = Split.of(holdout, dataset.fingerprint)
    try:
        split = Split.load(home, dataset.name)
    except FeaturesMissingError:
        split = None
    if split != wanted:
        console.rule(f"features of {dataset.name}")
        with progress_bars(console) as progress:
            # Measuring stays local; a shared store holds only what serving reads.
            own = OnlineStoreSettings(online_store="sqlite") if holdout == "last" else None
            build_features(home, dataset.name, holdout, progress, own)
    return wanted


@dataclass(frozen=True)
class Inputs:
    """Inputs of a fit."""

    home: Home
    dataset: Dataset
    settings: Profile
    split: Split
    data: RetrievalData

    @staticmethod
    def of(home: Home, dataset: Dataset, settings: Profile, split: Split) -> Inputs:
        """Write the towers' sequences from the features and return the inputs."""
        run = Run(home.run(dataset.name))
        watches = home.features(dataset.name) / "watches.parquet"
        data = RetrievalData.stream(
            watches,
            dataset.videos,
            dataset.viewers,
            run.sequences,
            context=settings.retrieval.context,
        )
        return_memory()  # Freed strings of the tables lie between strings that are kept.
        return Inputs(home, dataset, settings, split, data)

    @property
    def repo(self) -> Path:
        """The feature folder."""
        return self.home.features(self.dataset.name)

    @property
    def run(self) -> Run:
        """The run's folder."""
        return Run(self.home.run(self.dataset.name))

    @property
    def watches(self) -> pd.DataFrame:
        """The split's watches, read on each use: keeping them takes too much memory."""
        return load_watches(self.home, self.dataset.name)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of everything that determines the retrieval part."""
        retrieval = self.settings.retrieval
        return fingerprint(
            FORMAT_VERSION,
            # Without the tasks and their outcomes, which the ranker alone learns.
            FeatureSchema.ours(
                retrieval.history_limit, retrieval.dimension, self.data.context
            ).model_dump(exclude={"tasks"}),
            self.split.model_dump(exclude={"outcomes", "features_format"}),
            self.data.fingerprint(),
            asdict(retrieval),
        )

    def stage_retrieval(self, model: TwoTower, quotas: Quotas | None = None) -> CandidateRelease:
        """Stage the release's retrieval part with the trained towers and return it.

        `quotas` are those of its sources; the defaults if None.
        """
        described = describe_dataset(self.home, self.dataset.name)
        origin = Origin(
            self.dataset.name,
            self.split.data_fingerprint,
            self.split.holdout,
            described.log_positions.catalogue,
            described.last.timestamp(),
        )
        return stage_retrieval(
            self.run.draft, model, self.data, self.dataset, self.repo, origin, quotas
        )
