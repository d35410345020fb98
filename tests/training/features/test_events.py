from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.features.activity import EventRules
from tests.builders.datasets import random_interactions
from training.data.split import split_watches
from training.features.build import write_event_rules


@pytest.mark.parametrize("rated", ["hide", "play"])
def test_events_are_liked_by_the_rule_of_the_split(rated: str, tmp_path: Path) -> None:
    interactions = random_interactions()
    interactions["watched_fraction"] = np.float32(0.9)
    interactions = interactions[interactions["event"] != "like"]
    interactions.loc[(interactions["event"] == rated).idxmax(), "rating"] = np.float32(1)
    write_event_rules(interactions, tmp_path)
    by_fraction = EventRules.load(tmp_path).liked_fraction is not None
    assert by_fraction == (rated == "hide")
    assert split_watches(interactions, "none")["liked"].all() == by_fraction
