from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.home import Home
from vireo.training.features.build import build_features
from vireo.training.features.watches import load_watches


@pytest.fixture(scope="session")
def interactions() -> pd.DataFrame:
    return random_interactions()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, interactions: pd.DataFrame) -> Home:
    """A home with data set "small" and its features, holdout last."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_small_dataset(home, "small", interactions)
    build_features(home, "small")
    return home


@pytest.fixture(scope="session")
def repo(home: Home) -> Path:
    return home.features("small")


@pytest.fixture(scope="session")
def watches(home: Home) -> pd.DataFrame:
    return load_watches(home, "small")
