from __future__ import annotations

from pathlib import Path

from rich.console import Console

from bench.refit import gone_on, measures
from tests.builders.datasets import random_interactions, write_small_dataset
from tests.builders.fits import fit_measured
from vireo.server.home import Home
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training.data.dataset import load_dataset
from vireo.training.fit import refit_config
from vireo.training.profile import load_profile


def test_refitted_towers_are_measured_beside_the_first_fit(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    write_small_dataset(home, "trained", random_interactions())
    fit_measured(home, "trained")
    config = refit_config(load_profile("quick").retrieval)
    tables = load_dataset(home, "trained")
    folder = gone_on(home, tables, config, tmp_path / "gone-on", Console(quiet=True))
    staged = home.staged_release("trained")
    (before, ranks), (after, _) = (measures(home, "trained", each) for each in (staged, folder))
    metrics = Manifest.read(staged).metrics
    assert before["ndcg_10"] == metrics["chain.ndcg_10"]
    assert before.keys() == after.keys()
    assert (ranks < 100).mean() == before["recall_100"]
    assert 0 <= before["new_share"] <= 1
    first, second = (each / layout.VIDEO_VECTORS for each in (staged, folder))
    assert first.read_bytes() != second.read_bytes()
    assert (staged / layout.RANKER).read_bytes() == (folder / layout.RANKER).read_bytes()
