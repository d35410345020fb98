from __future__ import annotations

import pandas as pd
import pytest
from rich.console import Console

from vireo.server.candidate.release import CandidateRelease
from vireo.server.home import Home
from vireo.training.data.dataset import load_dataset
from vireo.training.evaluation.studies import Studies
from vireo.training.ranking.storage import load_ranking_set
from vireo.training.ranking.training_set import RankingSet
from vireo.training.retrieval.data import RetrievalData
from vireo.training.run import Run


@pytest.fixture(scope="module")
def studies(trained_home: Home) -> Studies:
    return Studies(trained_home, "trained", "quick", Console(quiet=True))


@pytest.fixture(scope="module")
def release(trained_home: Home) -> CandidateRelease:
    return CandidateRelease.load(trained_home.staged_release("trained"))


@pytest.fixture(scope="module")
def data(trained_home: Home, trained_watches: pd.DataFrame) -> RetrievalData:
    tables = load_dataset(trained_home, "trained")
    return RetrievalData.build(trained_watches, tables.videos, tables.viewers)


@pytest.fixture(scope="module")
def ranking_set(trained_home: Home) -> RankingSet:
    run = Run(trained_home.run("trained"))
    found = load_ranking_set(run.ranking_set, run.finished_inputs())
    assert found is not None
    return found
