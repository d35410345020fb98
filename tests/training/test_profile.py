from __future__ import annotations

from pathlib import Path

import pytest

from vireo.training.profile import PROFILES, ProfileError, load_profile, read_profile
from vireo.training.ranking.config import RankingConfig
from vireo.training.retrieval.config import RetrievalConfig


@pytest.mark.parametrize("path", sorted(PROFILES.iterdir()), ids=lambda path: path.stem)
def test_the_profiles_that_ship_can_be_read(path: Path) -> None:
    profile = load_profile(path.stem)

    assert profile.retrieval.dimension % profile.retrieval.heads == 0


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="no profile 'best'; choose one of demo, large"):
        load_profile("best")


def test_a_file_is_a_profile_whose_missing_settings_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[retrieval]\nepochs = 3\nlearning_rate = 1\nmax_minutes = 2\n")

    profile = load_profile(str(path))

    assert profile.retrieval == RetrievalConfig(epochs=3, learning_rate=1.0, max_minutes=2.0)
    assert profile.ranking == RankingConfig()
    with pytest.raises(ProfileError, match=r"cannot read the profile .*other.toml: No such file"):
        load_profile(str(tmp_path / "other.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[retrival]\n", r"unknown section \[retrival\]; there are retrieval, ranking"),
        ("epochs = 3\n", r"unknown section \[epochs\]"),
        ("[retrieval]\nepoch = 3\n", r"\[retrieval\] has no setting 'epoch'; there are seed,"),
        ("[ranking]\nepoch = 3\n", r"\[ranking\] has no setting 'epoch'; there are seed,"),
        ("[retrieval]\nepochs = 2.5\n", r"\[retrieval\] epochs is 2.5, which isn't int"),
        ("[retrieval]\nepochs = true\n", r"\[retrieval\] epochs is True, which isn't int"),
        ('[retrieval]\ndropout = "high"\n', r"dropout is 'high', which isn't float"),
        ("retrieval = 3\n", r"\[retrieval\] must be a section"),
        ("[retrieval\n", "not TOML"),
    ],
)
def test_a_mistake_in_a_profile_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)

    with pytest.raises(ProfileError, match=message):
        read_profile(path)
