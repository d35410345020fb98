from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.builders.watches import towers_data
from vireo.training.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.train import train_retrieval
from vireo.training.retrieval.validation import (
    WorseThanPopularityError,
    check_beats_popularity,
    validation_ranks,
)


def of_hits(viewers: int, held_out: int = 1) -> RetrievalData:
    """Whoever has watched the one hit watches the other next, which half of all have watched."""
    ids = ["hit-0", "hit-1", *(f"v{number:02}" for number in range(60))]
    walks = {
        f"viewer-{viewer:02}": [
            *(ids[2 + (15 * viewer + step) % 60] for step in range(3)),
            f"hit-{viewer % 2}",
            f"hit-{1 - viewer % 2}",
        ]
        for viewer in range(viewers)
    }
    return towers_data(walks, ids, held_out=held_out)


def said(model: TwoTower, data: RetrievalData, *, force: bool = False) -> str:
    """What the comparison with popularity prints."""
    output = io.StringIO()
    check_beats_popularity(model, data, Console(file=output, width=200), force=force)
    return output.getvalue()


def untrained(data: RetrievalData, config: RetrievalConfig) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(data, config)


def test_towers_that_lose_to_popularity_beyond_the_noise_need_force(small: RetrievalConfig) -> None:
    data = of_hits(60)
    model = untrained(data, small)
    with pytest.raises(WorseThanPopularityError, match=r"NDCG@10 is .* most watched.*--force"):
        said(model, data)
    assert "warning: the towers' NDCG@10 is" in said(model, data, force=True)


def test_within_the_noise_of_few_viewers_there_is_a_warning(small: RetrievalConfig) -> None:
    data = of_hits(4)
    assert "on 4 viewers of validation" in said(untrained(data, small), data)


def test_towers_that_have_learned_pass_in_silence_and_so_do_those_without_validation(
    small: RetrievalConfig, tmp_path: Path
) -> None:
    data = of_hits(60)
    model = train_retrieval(data, replace(small, epochs=60), tmp_path, Console(quiet=True))
    assert not said(model, data)
    every = of_hits(60, held_out=0)
    assert not said(untrained(every, small), every)


def test_a_video_that_was_published_later_does_not_compete(small: RetrievalConfig) -> None:
    data = of_hits(60)
    model = untrained(data, small)
    before = validation_ranks(model, data)
    later = data.published_at.copy()
    watched = {held_out.target for held_out in data.validation}
    later[[row for row in range(data.video_count) if row not in watched]] = 2**40
    ranks = validation_ranks(model, replace(data, published_at=later))
    assert (ranks < len(watched)).all()
    assert ranks.sum() < before.sum()
