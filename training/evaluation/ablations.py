"""Ablations: the chain with the ranker retrained without a source or an input.

The towers stay as they are. The ranker is retrained on the run's own ranking set without the source
or input, and ranks the test lists without it. Removing a source removes its bit, its score, and the
candidates that it alone proposed, whose places no other source fills. Each training keeps its
checkpoints, so that an interrupted study resumes and a larger one trains only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
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
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.training.comparison import means, paired_tests
from vireo.training.evaluation.sources import NAMES as SOURCES
from vireo.training.ranking.batches import Batches, chunks
from vireo.training.ranking.config import RankingConfig
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.train import fit_ranker
from vireo.training.ranking.training_set import (
    OutcomeLabels,
    RankingSet,
    WatchLists,
    build_ranking_set,
)
from vireo.training.run import fingerprint

FULL = "full"
GROUPS = ("attributes", "history")
_MISSED = 1_000_000

Part = TypeVar("Part", WatchLists, OutcomeLabels)
Column = tuple[str, int]
"""A table of a ranking set's parts, "retrieval", "match" or "features" (of videos), or of their
viewers, "viewer_features"; and a column of it."""


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
        if not hasattr(owner, table):  # Outcomes have no retrieval features.
            return part
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


def lists_of_test(
    watches: pd.DataFrame, repo: Path, release: CandidateRelease, config: RankingConfig
) -> RankingSet:
    """Return the lists of the test watches, which are drawn as those that rankers are fitted to."""
    parts = watches["part"].map({"test": "validation"}).fillna("train")
    return build_ranking_set(watches.assign(part=parts), repo, release, config)


@torch.no_grad()
def ranks_of(model: Ranker, lists: WatchLists, vectors: Float32Array) -> Int64Array:
    """Return the 0-based place of each list's label, int64[m]; a huge number if it isn't in it."""
    batches = Batches(vectors)
    ranks = [np.empty(0, np.int64)]
    model.eval()
    for places in chunks(np.arange(len(lists.rows)), 64):
        inputs, real = batches.watch_inputs(lists, places)
        label = torch.from_numpy(lists.label[places])
        order = model.logits(inputs)[0].masked_fill(~real, -torch.inf)
        own = order.gather(1, label.clamp(min=0)[:, None])
        ahead = (order >= own).sum(1) - 1
        ranks.append(torch.where(label >= 0, ahead, _MISSED).numpy())
    return np.concatenate(ranks)


def study_ablations(
    without: Sequence[str],
    ranking_set: RankingSet,
    test: RankingSet,
    release: CandidateRelease,
    config: RankingConfig,
    checkpoints: Path,
    made_of: str,
    console: Console,
) -> dict[str, Any]:
    """Retrain the ranker in full and without each, and compare them on the test lists.

    Args:
        without: names to leave out, of `ablation_names`.
        ranking_set: the released ranker's training set.
        test: the test lists, see `lists_of_test`.
        release: the release, for its video vectors.
        config: settings of the training.
        checkpoints: gets a folder for each training.
        made_of: fingerprint of the release's inputs.
        console: where progress is shown.

    Returns:
        `viewers`; `full`: measures of the whole chain; `without`: those without each; `tests`: of
        the whole chain against each, see `paired_tests`.
    """
    check_names(without)
    ranks: dict[str, Int64Array] = {}
    vectors = release.vectors.astype(np.float32, copy=False)
    for number, name in enumerate((FULL, *without), 1):
        left_out = "in full" if name == FULL else f"without {name}"
        console.rule(f"{number} of {len(without) + 1}  ranker, {left_out}")
        fitted = ranking_set if name == FULL else ablate(ranking_set, name)
        asked = test if name == FULL else ablate(test, name)
        trainer, _ = fit_ranker(
            fitted,
            vectors,
            release.manifest.feature_schema,
            len(release.vocabulary),
            config,
            checkpoints / name.replace(":", "_"),
            fingerprint(made_of, asdict(config), name),
            console,
        )
        ranks[name] = ranks_of(trainer.model, asked.watches, vectors)
    full = ranks.pop(FULL)
    found: dict[str, Any] = {
        "viewers": len(full),
        "full": means(full),
        "without": {name: means(each) for name, each in ranks.items()},
    }
    if ranks:
        found["tests"] = paired_tests(full, ranks)
    return found
