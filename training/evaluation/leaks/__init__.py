"""Checks that nothing of a test watch, nor anything later of its viewer, reached training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from training.evaluation.leaks.features import check_activity, check_statistics
from training.evaluation.leaks.labels import check_ranking_set
from training.evaluation.leaks.sequences import check_retrieval_data, check_split
from training.evaluation.leaks.tables import check_tables
from training.evaluation.leaks.timeline import LeakError, Timeline
from training.ranking.config import RankingConfig
from training.ranking.training_set import RankingSet
from training.retrieval.data import RetrievalData

__all__ = ["LeakError", "check_inputs", "check_made"]


def check_inputs(watches: pd.DataFrame, data: RetrievalData, repo: Path) -> None:
    """Check the inputs of training: split, towers' data and feature tables.

    Args:
        watches: as in `training.features.watches.WATCHES`.
        data: the towers' data.
        repo: the feature folder.

    Raises:
        LeakError: an input has a test watch or something later, or the towers' data has labels of
            the ranker.
    """
    timeline = Timeline(watches, data.video_ids)
    del watches  # The timeline has all that is checked.
    check_split(timeline)
    check_retrieval_data(timeline, data)
    check_activity(timeline, repo, data.video_rows())
    check_statistics(timeline, repo)


def check_made(
    watches: pd.DataFrame,
    data: RetrievalData,
    release: Path,
    ranking_set: RankingSet | None,
    viewers: int = RankingConfig.viewers,
) -> None:
    """Check the results of training: a release's tables, and the ranker's training set.

    Args:
        watches: as in `training.features.watches.WATCHES`.
        data: the towers' data.
        release: its folder, with or without the ranker.
        ranking_set: the ranking set drawn from it; None to check the tables alone.
        viewers: maximum viewers of the ranking set, see `RankingConfig`.

    Raises:
        LeakError: see `check_inputs`.
    """
    timeline = Timeline(watches, data.video_ids)
    del watches
    check_tables(timeline, data, release)
    if ranking_set is not None:
        check_ranking_set(timeline, ranking_set, viewers)
