"""Where a checkout's state lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.errors import VireoError
from server.home import Home


@pytest.mark.parametrize(
    "name", ["../../etc", "..", ".", "", "/etc", "a/b", "a\0b", "a\n", "x" * 200]
)
def test_no_name_of_a_data_set_leads_out_of_the_home(name: str) -> None:
    home = Home(Path("/home"))
    for place in (home.data, home.features, home.run, home.staged_release):
        with pytest.raises(VireoError, match="name of a data set"):
            place(name)


def test_the_folders_of_a_data_set_have_its_name() -> None:
    home = Home(Path("/home"))
    assert home.features("ml-100k") == Path("/home/features/ml-100k")
    assert home.staged_release("ml-100k") == Path("/home/runs/ml-100k/release")
