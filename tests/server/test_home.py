"""Where a checkout's state lies."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.manifest import DatasetName


@pytest.mark.parametrize(
    "name", ["../../etc", "..", ".", "", "/etc", "a/b", "a\0b", "a\n", "x" * 200]
)
def test_no_name_of_a_data_set_leads_out_of_the_home(name: str) -> None:
    home = Home(Path("/home"))
    for place in (home.data, home.features, home.run, home.staged_release):
        with pytest.raises(VireoError, match="can't name a data set"):
            place(name)


@pytest.mark.parametrize("name", ["a", "ml-100k", "a_b", "Mine", "a.b", "_", "x" * 64, "x" * 65])
def test_homes_and_manifests_accept_the_same_names_of_data_sets(name: str) -> None:
    try:
        TypeAdapter(DatasetName).validate_python(name)
    except ValidationError:
        with pytest.raises(VireoError, match="up to 64 lower-case letters"):
            Home(Path("/home")).data(name)
    else:
        assert Home(Path("/home")).data(name).name == name


def test_the_folders_of_a_data_set_have_its_name() -> None:
    home = Home(Path("/home"))
    assert home.features("ml-100k") == Path("/home/features/ml-100k")
    assert home.staged_release("ml-100k") == Path("/home/runs/ml-100k/release")
