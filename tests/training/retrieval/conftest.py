from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.builders.watches import towers_data, videos_frame, viewers_frame, watches_frame
from vireo.server.features.context import NAMES, sizes
from vireo.training.config import RetrievalConfig
from vireo.training.data.context import watch_column
from vireo.training.retrieval import data
from vireo.training.retrieval.data import RetrievalData

VIDEOS = 30
Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]


@pytest.fixture(scope="session")
def ring_tables() -> Tables:
    """Every viewer watches on around a ring of 30 videos, from somewhere, for 12 steps."""
    ids = [f"v{index}" for index in range(VIDEOS)]
    walks = {
        f"viewer-{start:03}": [ids[(start + step) % VIDEOS] for step in range(12)]
        for start in range(3 * VIDEOS)
    }
    halves = [["first"] if index < VIDEOS // 2 else ["second"] for index in range(VIDEOS)]
    attributes = {
        viewer: ["half=first"] if int(viewer[-3:]) % VIDEOS < VIDEOS // 2 else ["half=second"]
        for viewer in list(walks)[:60]
    }
    return watches_frame(walks), videos_frame(ids, halves), viewers_frame(attributes)


@pytest.fixture(scope="session")
def ring(ring_tables: Tables) -> RetrievalData:
    """See `ring_tables`."""
    return RetrievalData.build(*ring_tables)


@pytest.fixture(scope="session")
def context_tables(ring_tables: Tables) -> Tables:
    """The ring, each watch with a context."""
    watches, videos, viewers = ring_tables
    random = np.random.default_rng(3)
    columns = {
        watch_column(name): random.integers(0, size, len(watches)).astype(np.int16)
        for name, size in zip(NAMES, sizes(NAMES), strict=True)
    }
    return watches.assign(**columns), videos, viewers


@pytest.fixture(scope="session")
def of_context(context_tables: Tables) -> RetrievalData:
    return RetrievalData.build(*context_tables)


@pytest.fixture(scope="session")
def cats_and_dogs() -> RetrievalData:
    """Half of the viewers watch videos of cats, half of dogs.

    One more of each is unseen, "new-cat" and "new-dog", and "blank", which has no content.
    """
    random = np.random.default_rng(3)
    known = [f"{kind}-{number}" for number in range(20) for kind in ("cat", "dog")]
    walks = {
        f"viewer-{viewer:02}": list(random.permutation(known[viewer % 2 :: 2])[:12])
        for viewer in range(60)
    }
    ids = [*known, "new-cat", "new-dog", "blank"]
    tags = [[name[-3:] if "new" in name else name[:3]] for name in ids[:-1]]
    return towers_data(walks, ids, [*tags, []])


@pytest.fixture
def grouped(ring_tables: Tables, monkeypatch: pytest.MonkeyPatch) -> RetrievalData:
    """The ring in groups of a few viewers each."""
    monkeypatch.setattr(data, "GROUP_WATCHES", 100)
    return RetrievalData.build(*ring_tables)


@pytest.fixture(scope="session")
def small() -> RetrievalConfig:
    return RetrievalConfig(
        dimension=16,
        heads=2,
        history_limit=8,
        dropout=0.1,
        epochs=12,
        min_steps=0,
        batch_tokens=256,
        learning_rate=1e-2,
        warmup_steps=5,
        ema_decay=0.9,
        validations=4,
    )
