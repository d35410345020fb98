"""What every training test may use: one thread, and a home in which training has run."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.fits import fit_measured
from vireo.server.home import Home
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Manifest
from vireo.training.features.watches import load_watches
from vireo.training.fit import train_all
from vireo.training.ranking.training_set import RankingSet, load_ranking_set
from vireo.training.run import Run

TRAINED = "trained"
REFITTED = "refitted"

# Models this small gain nothing from threads, which on a busy machine wait for each other.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks whatever needs the trainings below as slow."""
    for item in items:
        fixtures = item.fixturenames if isinstance(item, pytest.Function) else ()
        if not {"trained_home", "refitted_home"}.isdisjoint(fixtures):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of measured fits, with one of a small data set, called "trained"."""
    home = Home(tmp_path_factory.mktemp("trained"))
    write_small_dataset(home, TRAINED, random_interactions())
    fit_measured(home, TRAINED)
    return home


@pytest.fixture(scope="session")
def refitted_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with both fits of that data set, called "refitted"; not to be changed."""
    home = Home(tmp_path_factory.mktemp("refitted"))
    write_small_dataset(home, REFITTED, random_interactions())
    train_all(home, REFITTED, "quick", force=True, console=Console(file=io.StringIO()))
    return home


@pytest.fixture(scope="session")
def manifest(trained_home: Home) -> Manifest:
    return Manifest.read(trained_home.staged_release(TRAINED))


@pytest.fixture(scope="session")
def trained_watches(trained_home: Home) -> pd.DataFrame:
    return load_watches(trained_home, TRAINED)


@pytest.fixture(scope="session")
def trained_repo(trained_home: Home) -> Path:
    """Its features."""
    return trained_home.features(TRAINED)


@pytest.fixture(scope="session")
def release(trained_home: Home) -> CandidateRelease:
    return CandidateRelease.load(trained_home.staged_release(TRAINED))


@pytest.fixture(scope="session")
def ranking_set(trained_home: Home) -> RankingSet:
    run = Run(trained_home.run(TRAINED))
    found = load_ranking_set(run.ranking_set, run.finished_inputs())
    assert found is not None
    return found
