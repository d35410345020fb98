from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.builders.fits import fit_measured
from vireo.server.errors import VireoError
from vireo.server.features.context import NAMES
from vireo.server.home import Home
from vireo.training.data.synth.world import WorldConfig
from vireo.training.data.synth.writing import write_world
from vireo.training.evaluation.studies import ABSENT, OFF, WITH, study_context
from vireo.training.profile import load_profile

QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a measured fit of a small world whose watches have a context."""
    home = Home(tmp_path_factory.mktemp("context"))
    write_world(home, "rich", WorldConfig(150, 120, 4_000, context=True))
    fit_measured(home, "rich")
    return home


def test_the_study_compares_with_context_without_and_trained_without(home: Home) -> None:
    found = study_context(home, "rich", load_profile("quick"), QUIET)
    assert found["features"] == list(NAMES)
    assert set(found["systems"]) == {WITH, ABSENT, OFF}
    figures = [found["systems"][name]["ndcg_10"]["value"] for name in (WITH, ABSENT, OFF)]
    assert len(set(figures)) == 3, "each is measured by itself"
    assert {(name, *found["tests"][name]) for name in found["tests"]} == {
        (WITH, OFF),
        (ABSENT, OFF),
    }


def test_a_release_that_reads_no_context_cannot_be_studied(trained_home: Home) -> None:
    with pytest.raises(VireoError, match="reads no context"):
        study_context(trained_home, "trained", load_profile("quick"), QUIET)
