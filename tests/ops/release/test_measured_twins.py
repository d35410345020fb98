"""The gate before a release that has learned from every watch: its measured twin is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.builders.datasets import ring_interactions, write_small_dataset
from tests.builders.variants import changed_copy, with_shuffled_ranker
from tests.ops.release.conftest import Vireo
from vireo.ops.cli.release.promote import PromotionRefusedError
from vireo.server.home import Home
from vireo.server.releases.manifest import Manifest, describe_files
from vireo.server.releases.store import ReleaseStore
from vireo.training.refit import add_measured
from vireo.training.train import train_all

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("ring"))
    write_small_dataset(home, "ring", ring_interactions())
    train_all(home, "ring", "quick", refit=False, console=Console(quiet=True))
    return home


def of_every_watch(release: Path, folder: Path, release_id: str, twin: Path) -> Path:
    """Return a copy of a release that says to hold out nothing, and has this measured twin."""
    changed_copy(release, folder, release_id=release_id, holdout="none")
    add_measured(folder, twin)
    Manifest.read(folder).model_copy(update={"files": describe_files(folder)}).write(folder)
    return folder


def test_the_gate_asks_the_measured_twins(
    home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(home.root))
    good = home.measuring.staged_release("ring")
    bad = with_shuffled_ranker(good, tmp_path / "bad", "bad")
    for release_id, twin in (("now", good), ("same", good), ("worse", bad)):
        store.publish(of_every_watch(good, tmp_path / release_id, release_id, twin))
    first = vireo("promote", "now", "--json")
    assert first.exit_code == 0, first.output
    gate = json.loads(first.stdout)["gate"]
    assert gate["outcome"] == "passed"
    assert {check["verdict"] for check in gate["checks"]} == {"like"}

    refused = vireo("promote", "worse", "--json")
    assert isinstance(refused.exception, PromotionRefusedError)
    gate = json.loads(refused.stdout)["gate"]
    assert gate["outcome"] == "refused"

    same = vireo("promote", "same")
    assert same.exit_code == 0, same.output


def test_a_served_fit_that_differs_from_its_measured_twin_is_refused(
    home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(home.root))
    good = home.measuring.staged_release("ring")
    bad = with_shuffled_ranker(good, tmp_path / "bad", "bad")
    store.publish(of_every_watch(good, tmp_path / "now", "now", good))
    store.publish(of_every_watch(bad, tmp_path / "astray", "astray", good))
    assert vireo("promote", "now").exit_code == 0
    refused = vireo("promote", "astray").exception
    assert isinstance(refused, PromotionRefusedError)
    assert "the fit that would be served differs" in str(refused)
    assert "differs from its measured twin" in str(refused)
    assert "ndcg_10" not in str(refused), "the twin is equal"


def test_a_first_release_that_differs_from_its_measured_twin_is_refused_and_can_be_forced(
    home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(home.root))
    good = home.measuring.staged_release("ring")
    bad = with_shuffled_ranker(good, tmp_path / "bad", "bad")
    store.publish(of_every_watch(bad, tmp_path / "astray", "astray", good))
    refused = vireo("promote", "astray").exception
    assert isinstance(refused, PromotionRefusedError)
    assert "the fit that would be served differs" in str(refused)
    assert "production still names nothing" in str(refused)
    forced = vireo("promote", "astray", "--force", "--reason", "a test")
    assert forced.exit_code == 0, forced.output
    assert "against its measured twin" in forced.output
    assert "against the gate" in forced.output
    channel = store.read_channel("production")
    assert channel is not None
    assert channel.pointer.best_figures == ()


def test_a_first_release_passes_where_it_cannot_be_measured(
    home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    good = home.measuring.staged_release("ring")
    store.publish(of_every_watch(good, tmp_path / "first", "first", good))
    done = vireo("promote", "first")
    assert done.exit_code == 0, done.output
    assert "it is the channel's first release, and can't be compared" in done.output


def test_a_release_with_a_twin_is_compared_with_one_that_was_measured_itself(
    home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(home.root))
    good = home.measuring.staged_release("ring")
    store.publish(changed_copy(good, tmp_path / "itself", release_id="itself"))
    store.publish(of_every_watch(good, tmp_path / "refitted", "refitted", good))
    assert vireo("promote", "itself").exit_code == 0
    done = vireo("promote", "refitted")
    assert done.exit_code == 0, done.output
    assert "NDCG@10" in done.output
