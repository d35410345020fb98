"""What each source and each input of the ranker is worth: the chain trained again without it.

The towers stay as they are. The ranker is trained again on the run's own ranking set, from which
the source's candidates or the input are taken, and ranks the test lists, from which they are
taken too. A source is taken out whole: the candidates that it alone proposed (no other source
fills their places), its bit, and its score. Each training leaves its checkpoints, so that a study
that was stopped goes on, and one that asks for more trains what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rich.console import Console

from server.candidate.release import CandidateRelease
from server.errors import VireoError
from server.features.ranking_inputs import (
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from training.evaluation.comparison import PER_VIEWER, holm, intervals, paired_p
from training.evaluation.metrics import gains
from training.evaluation.sources import NAMES as SOURCES
from training.ranking.batches import Batches, chunks
from training.ranking.config import RankingConfig
from training.ranking.model import Ranker
from training.ranking.train import fit_ranker
from training.ranking.training_set import (
    LikeLabels,
    RankingSet,
    ViewerColumns,
    WatchLists,
    build_ranking_set,
)
from training.run import fingerprint

ABLATIONS_FILE = "ablations.json"
FULL = "full"
GROUPS = ("attributes", "history")
_MISSED = 1_000_000

Int64Array = npt.NDArray[np.int64]
Part = TypeVar("Part", WatchLists, LikeLabels)


@dataclass(frozen=True)
class Column:
    """One column of a set's inputs."""

    table: str
    """"retrieval", "match", "features" (of videos) or "viewer_features"."""
    place: int


def ablation_names() -> dict[str, Column | None]:
    """Everything that can be left out: sources and groups (None), and columns by name.

    A name that videos and viewers share stands with "video:" or "viewer:" before it.
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
            names.setdefault(f"{kind}{name}" if name in both else name, Column(table, place))
    return names


def check_names(without: Sequence[str]) -> None:
    """Raises VireoError for a name that can't be left out; the message names those that can."""
    known = ablation_names()
    for name in without:
        if name not in known:
            raise VireoError(f"can't go without {name!r}; choose of {', '.join(known)}")


def ablate(data: RankingSet, name: str) -> RankingSet:
    """The set without a source, a group or a column of `ablation_names`."""
    column = ablation_names()[name]
    watches, likes = data.watches, data.likes
    if column is not None:
        watches, likes = _without_column(watches, column), _without_column(likes, column)
        return replace(data, watches=watches, likes=likes)
    if name in GROUPS:
        return replace(
            data,
            watches=replace(watches, viewers=_without_group(watches.viewers, name)),
            likes=replace(likes, viewers=_without_group(likes.viewers, name)),
        )
    return replace(data, watches=_without_source(watches, name))


def _without_column(part: Part, column: Column) -> Part:
    if column.table == "viewer_features":
        table = part.viewers.viewer_features.copy()
        table[:, column.place] = 0
        return replace(part, viewers=replace(part.viewers, viewer_features=table))
    if not hasattr(part, column.table):  # Likes come without retrieval features.
        return part
    table = getattr(part, column.table).copy()
    table[..., column.place] = 0
    return replace(part, **{column.table: table})


def _without_group(viewers: ViewerColumns, name: str) -> ViewerColumns:
    if name == "attributes":
        return replace(viewers, attributes=np.zeros_like(viewers.attributes))
    return replace(
        viewers,
        history_rows=np.full_like(viewers.history_rows, -1),
        history_lengths=np.zeros_like(viewers.history_lengths),
    )


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
    """The lists of the test watches with the features that serving would have."""
    parts = watches["part"].map({"test": "validation"}).fillna("train")
    data = build_ranking_set(watches.assign(part=parts), repo, release, config)
    lists = data.watches
    features = np.where((lists.rows >= 0)[..., None], data.served_features[lists.rows], 0)
    return replace(data, watches=replace(lists, features=features.astype(np.float32)))


@torch.no_grad()
def ranks_of(model: Ranker, lists: WatchLists, vectors: npt.NDArray[np.float32]) -> Int64Array:
    """0-based place of each list's label, int64[m]; a huge number where it isn't in the list."""
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
    """Trains the ranker in full and without each, and compares them on the test lists.

    Args:
        without: what to leave out, of `ablation_names`.
        ranking_set: what the released ranker was trained on.
        test: the test lists, `lists_of_test`.
        release: the release, for its video vectors.
        config: how to train.
        checkpoints: gets a folder for each training, that is gone on with when it is interrupted.
        made_of: the fingerprint of what the release was made of.
        console: where progress is shown.

    Returns:
        `viewers`; `full`: the measures of the whole chain; `without`: those without each;
        `tests`: for each, `ndcg_10`: what the whole chain has more, with its interval, `p` and
        `p_holm`.
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
            len(release.vocabulary),
            config,
            checkpoints / name.replace(":", "_"),
            fingerprint(made_of, asdict(config), name),
            console,
        )
        ranks[name] = ranks_of(trainer.model, asked.watches, vectors)
    measured = {
        name: {measure: float(of(places).mean()) for measure, of in PER_VIEWER.items()}
        for name, places in ranks.items()
    }
    full = measured.pop(FULL)
    found: dict[str, Any] = {"viewers": len(ranks[FULL]), "full": full, "without": measured}
    if without:
        leads = [gains(ranks[FULL], 10) - gains(ranks[name], 10) for name in without]
        differences = np.stack(leads, axis=1)
        p_values = dict(zip(without, paired_p(differences), strict=True))
        corrected = holm(p_values)
        found["tests"] = {
            name: {"ndcg_10": lead, "p": p_values[name], "p_holm": corrected[name]}
            for name, lead in zip(without, intervals(differences), strict=True)
        }
    return found
