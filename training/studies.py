"""Studies of `vireo evaluate`, each of which writes a file of the report.

Ablations are the chain with the ranker retrained without a source or an input. The towers stay as
they are. The ranker is retrained on the run's own ranking set without the source or input, and
ranks the test lists without it. Removing a source removes its bit, its score, and the candidates
that it alone proposed, whose places no other source fills. Each training keeps its checkpoints, so
that an interrupted study resumes and a larger one trains only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.errors import VireoError
from vireo.server.features.model_inputs import (
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.training.config import RankingConfig
from vireo.training.data.dataset import load_dataset
from vireo.training.evaluation import report as files
from vireo.training.evaluation.choices import (
    MAX_VIEWERS,
    Proposals,
    fit_quotas,
    study_diversity,
    study_sources,
)
from vireo.training.evaluation.choices import NAMES as SOURCES
from vireo.training.evaluation.cold_start import study_cold_start
from vireo.training.evaluation.report import write_json
from vireo.training.evaluation.systems import (
    HeldOutPart,
    HeldOutWatches,
    last_held_out,
)
from vireo.training.evaluation.tuning import described, tune_baselines, write_settings
from vireo.training.features.watches import load_watches
from vireo.training.metrics import means, paired_tests
from vireo.training.modules import Checkpoints
from vireo.training.profile import load_profile
from vireo.training.ranking.loss import Batches, chunks, label_ranks
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.train import RankingTrainer
from vireo.training.ranking.training_set import (
    OutcomeLabels,
    RankingSet,
    WatchLists,
    build_ranking_set,
    load_ranking_set,
)
from vireo.training.run import Run, fingerprint

FULL = "full"
GROUPS = ("attributes", "history")

Part = TypeVar("Part", WatchLists, OutcomeLabels)
Column = tuple[str, int]
"""A table of a ranking set's parts, "retrieval", "match" or "features" (of videos), or of their
viewers, "viewer_features"; and a column of it."""


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
        """Retrain the ranker in full and without each of these, and compare them on the test lists.

        Returns:
            `viewers`; `full`: measures of the whole chain; `without`: those without each; `tests`:
            of the whole chain against each, see `paired_tests`.
        """
        check_names(without)
        release, made_of = self._release, self.run.finished_inputs()
        config = replace(load_profile(self.profile).ranking, candidates=release.manifest.candidates)
        ranking_set, test = self._ranking_set(), self._test_lists(config)
        vectors = release.vectors.astype(np.float32, copy=False)
        ranks: dict[str, Int64Array] = {}
        for number, name in enumerate((FULL, *without), 1):
            left_out = "in full" if name == FULL else f"without {name}"
            self.console.rule(f"{number} of {len(without) + 1}  ranker, {left_out}")
            fitted, asked = (
                data if name == FULL else ablate(data, name) for data in (ranking_set, test)
            )
            trainer = RankingTrainer(
                fitted,
                vectors,
                release.manifest.feature_schema,
                len(release.vocabulary),
                config,
                Checkpoints(
                    self.run.checkpoints / "ablations" / name.replace(":", "_"),
                    fingerprint(made_of, asdict(config), name),
                ),
            )
            trainer.fit(self.console)
            ranks[name] = ranks_of(trainer.model, asked.watches, vectors)
        full = ranks.pop(FULL)
        found: dict[str, Any] = {
            "viewers": len(full),
            "full": means(full),
            "without": {name: means(each) for name, each in ranks.items()},
            "tests": paired_tests(full, ranks),
        }
        return self._written(files.ABLATIONS, found)

    def _test_lists(self, config: RankingConfig) -> RankingSet:
        """Return the lists of the test watches, drawn as those that rankers are fitted to."""
        parts = self._watches["part"].map({"test": "validation"}).fillna("train")
        watches = self._watches.assign(part=parts)
        return build_ranking_set(watches, self._repo, self._release, config)

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


def ablation_names() -> dict[str, Column | None]:
    """Return everything that can be left out: sources and groups (None), and columns by name.

    Names that videos and viewers share have the prefix "video:" or "viewer:".
    """
    both = set(VIDEO_FEATURES) & set(VIEWER_FEATURES)
    names: dict[str, Column | None] = dict.fromkeys((*SOURCES, *GROUPS))
    for table, kind, features in (
        ("retrieval", "", RETRIEVAL_FEATURES),
        ("match", "", MATCH_FEATURES),
        ("features", "video:", VIDEO_FEATURES),
        ("viewer_features", "viewer:", VIEWER_FEATURES),
    ):
        for place, name in enumerate(features):
            names.setdefault(f"{kind}{name}" if name in both else name, (table, place))
    return names


def check_names(without: Sequence[str]) -> None:
    """Raise VireoError for a name that can't be left out, with those that can."""
    known = ablation_names()
    for name in without:
        if name not in known:
            raise VireoError(f"cannot leave out {name!r}; choose from {', '.join(known)}")


def ablate(data: RankingSet, name: str) -> RankingSet:
    """Return the set without a source, a group or a column of `ablation_names`."""
    if name in SOURCES:
        return replace(data, watches=_without_source(data.watches, name))
    return RankingSet(_without(data.watches, name), _without(data.outcomes, name))


def _without(part: Part, name: str) -> Part:
    """Return a part without a group or a column."""
    viewers, column = part.viewers, ablation_names()[name]
    if name == "attributes":
        viewers = replace(viewers, attributes=np.zeros_like(viewers.attributes))
    elif name == "history":
        rows, lengths = viewers.history_rows, viewers.history_lengths
        viewers = replace(
            viewers, history_rows=np.full_like(rows, -1), history_lengths=np.zeros_like(lengths)
        )
    elif column is not None:
        table, place = column
        owner = viewers if table == "viewer_features" else part
        values = getattr(owner, table).copy()
        values[..., place] = 0
        if owner is part:
            return replace(part, **{table: values})
        viewers = replace(viewers, viewer_features=values)
    return replace(part, viewers=viewers)


def _without_source(lists: WatchLists, name: str) -> WatchLists:
    bits = [place for place, feature in enumerate(RETRIEVAL_FEATURES) if "from_" in feature]
    own = RETRIEVAL_FEATURES.index(f"from_{name}")
    others = [place for place in bits if place != own]
    alone = (lists.retrieval[..., own] > 0) & ~(lists.retrieval[..., others] > 0).any(-1)
    retrieval = lists.retrieval.copy()
    retrieval[..., own] = 0
    if name in RETRIEVAL_FEATURES:
        retrieval[..., RETRIEVAL_FEATURES.index(name)] = 0
    rows = np.where(alone, -1, lists.rows)
    labelled = np.maximum(lists.label, 0)
    gone = alone[np.arange(len(labelled)), labelled]
    label = np.where((lists.label >= 0) & ~gone, lists.label, -1)
    return replace(lists, rows=rows, retrieval=retrieval, label=label)


@torch.no_grad()
def ranks_of(model: Ranker, lists: WatchLists, vectors: Float32Array) -> Int64Array:
    """Return the 0-based place of each list's label, int64[m]; a huge number if it isn't in it."""
    batches = Batches(vectors)
    ranks = [np.empty(0, np.int64)]
    model.eval()
    for places in chunks(np.arange(len(lists.rows)), 64):
        inputs, real = batches.inputs(lists, places)
        label = torch.from_numpy(lists.label[places])
        ranks.append(label_ranks(model.logits(inputs)[0], real, label).numpy())
    return np.concatenate(ranks)
