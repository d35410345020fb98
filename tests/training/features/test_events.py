from __future__ import annotations

from pathlib import Path

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.features.activity import Bounce, EventRules
from vireo.server.home import Home
from vireo.training.data.dataset import DESCRIPTION, describe_dataset
from vireo.training.data.split import LIKED_FRACTION
from vireo.training.features.build import build_features


def test_events_count_by_the_rules_of_the_data_set(tmp_path: Path) -> None:
    home, bounce = Home(tmp_path), Bounce(fraction=0.1)
    interactions = random_interactions()
    interactions.loc[0, "rating"] = 1.0
    write_small_dataset(home, "small", interactions)
    build_features(home, "small")
    rules = EventRules.load(home.features("small"))
    assert rules == EventRules(liked_fraction=LIKED_FRACTION)
    info = describe_dataset(home, "small").model_copy(update={"bounce": bounce})
    (home.data("small") / DESCRIPTION).write_text(info.model_dump_json())
    build_features(home, "small")
    assert EventRules.load(home.features("small")).bounce == bounce
