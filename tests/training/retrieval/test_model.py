"""The towers: what viewers and videos have as vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from tests.builders.towers import random_towers
from tests.builders.watches import towers_data
from vireo.server.features.context import NAMES, UNKNOWN
from vireo.server.features.model_inputs import ATTRIBUTE_LIMIT
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.config import RetrievalConfig
from vireo.training.data.context import watch_column
from vireo.training.modules import ContextEmbeddings
from vireo.training.retrieval import model as module
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower, readable, viewer_vectors

Inputs = dict[str, npt.NDArray[np.int64]]


@pytest.fixture
def model(ring: RetrievalData, small: RetrievalConfig) -> TwoTower:
    return random_towers(ring, small)


def inputs(*histories: Sequence[int], **changed: object) -> Inputs:
    """Viewers who watched these videos, by row + 1."""
    rows = np.zeros((len(histories), max(1, *map(len, histories))), np.int64)
    for place, history in enumerate(histories):
        rows[place, : len(history)] = history
    given = {
        "history": rows,
        "gaps": np.broadcast_to(np.arange(rows.shape[1]) % 5, rows.shape).copy(),
        "asked_gap": np.arange(len(histories)) + 7,
        "lengths": np.array([*map(len, histories)]),
        "attributes": np.zeros((len(histories), ATTRIBUTE_LIMIT), np.int64),
    }
    return given | {name: np.array(value) for name, value in changed.items()}


def vectors_of(model: TwoTower, given: Mapping[str, npt.NDArray[np.int64]]) -> torch.Tensor:
    return viewer_vectors(model, readable(model.video_vectors()), given)


MANY = inputs([1, 2, 3], [4, 5], [])


@pytest.mark.parametrize("kind", ["ring", "of_context"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_last_state_that_is_served_equals_that_of_all_states_in_training(
    kind: str, small: RetrievalConfig, blocks: int, request: pytest.FixtureRequest
) -> None:
    model = random_towers(request.getfixturevalue(kind), replace(small, blocks=blocks))
    watched = readable(model.video_vectors())[torch.from_numpy(MANY["history"])]
    gaps = np.zeros((3, 4), np.int64)
    context = np.zeros((3, 4, len(NAMES)), np.int64)
    asked_in = np.array([[5, 1, 2, 8], [3, 2, 1, 7], [0, 0, 1, 0]])
    for viewer, length in enumerate(MANY["lengths"].tolist()):
        gaps[viewer, :length] = MANY["gaps"][viewer, :length]
        gaps[viewer, length] = MANY["asked_gap"][viewer]
        context[viewer, length] = asked_in[viewer]
    attributes = torch.from_numpy(MANY["attributes"])
    states = model.viewer_tower(
        watched, torch.from_numpy(gaps), attributes, context=torch.from_numpy(context)
    )
    last = states[torch.arange(3), MANY["lengths"]]
    assert last.shape == (3, 16)
    given = MANY | ({"context": asked_in} if model.context else {})
    assert torch.allclose(vectors_of(model, given), last, atol=1e-5)


def test_viewers_are_computed_a_few_at_a_time_and_padding_changes_nothing(
    model: TwoTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vectors_of(model, MANY)
    monkeypatch.setattr(module, "VIEWERS_AT_ONCE", 2)
    assert torch.allclose(vectors_of(model, MANY), whole, atol=1e-6)
    padded = {name: np.pad(MANY[name], ((0, 0), (0, 3))) for name in ("history", "gaps")}
    assert torch.allclose(vectors_of(model, MANY | padded), whole, atol=1e-5)


def test_no_state_depends_on_later_watches(model: TwoTower) -> None:
    table, nobody = readable(model.video_vectors()), torch.zeros(1, ATTRIBUTE_LIMIT).long()
    one, other = (
        model.viewer_tower(table[torch.tensor([history])], torch.tensor([gaps]), nobody)
        for history, gaps in (([1, 2, 3], [0, 1, 2, 3]), ([1, 2, 9], [0, 1, 2, 4]))
    )
    assert torch.allclose(one[:, :3], other[:, :3], atol=1e-5)
    assert not torch.allclose(one[:, 3], other[:, 3], atol=1e-3)


@pytest.mark.parametrize("changed", ["history", "gaps", "asked_gap", "attributes"])
def test_every_input_matters(model: TwoTower, changed: str) -> None:
    given = inputs([1, 2, 3])
    other = given | {changed: given[changed].copy()}
    other[changed][0] += 1
    assert not torch.allclose(vectors_of(model, given), vectors_of(model, other), atol=1e-3)
    backwards = vectors_of(model, inputs([3, 2, 1]))
    assert not torch.allclose(vectors_of(model, given), backwards, atol=1e-3)


def test_a_longer_absence_than_any_in_training_is_the_longest_there(model: TwoTower) -> None:
    with torch.no_grad():
        for steps in (model.viewer_tower.asked_steps, model.viewer_tower.age_steps):
            steps.weight[20:] = 0  # what no batch had leaves them as small as they begin
    asked = vectors_of(model, inputs(*[[1, 2]] * 4, asked_gap=[18, 19, 25, 31]))
    assert not torch.allclose(asked[0], asked[1], atol=1e-3)
    assert torch.equal(asked[1:], asked[1:2].expand(3, -1))


@pytest.mark.parametrize("described", [True, False])
def test_a_video_never_watched_has_the_vector_of_its_content(
    small: RetrievalConfig, described: bool
) -> None:
    tags = [["t"], ["t"], ["t"], ["u"], ["u"]] if described else None
    data = towers_data({"a": ["x", "y", "z"]}, ["x", "new", "new too", "y", "z"], tags)
    vectors = random_towers(data, small).video_vectors()
    assert torch.equal(vectors[1], vectors[2])
    assert bool(vectors[1].any()) is described
    assert not torch.allclose(vectors[0], vectors[1])


def test_id_dropout_leaves_some_videos_their_content_alone(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    model = random_towers(ring, replace(small, id_dropout=0.5))
    content_alone = model.video_vectors() - model.video_tower.id_embedding.weight
    torch.manual_seed(1)
    vectors = model.train().video_vectors()
    dropped = torch.isclose(vectors, content_alone, atol=1e-5).all(1)
    assert 3 < int(dropped.sum()) < 27


def test_the_table_made_a_part_at_a_time_is_that_of_the_rows_alone(
    model: TwoTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.video_vectors().detach()
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)
    with torch.no_grad():
        assert torch.allclose(model.video_vectors(), whole, atol=1e-6)
        rows = torch.tensor([7, 0, 7])
        assert torch.allclose(model.video_tower(rows), whole[rows], atol=1e-6)


Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
COLUMNS = [watch_column(name) for name in NAMES]


def asked(data: RetrievalData, model: TwoTower, *viewers: ViewerFeatures) -> np.ndarray:
    inputs = data.inputs(viewers, model.config.history_limit)
    with torch.no_grad():
        vectors: np.ndarray = viewer_vectors(model, readable(model.video_vectors()), inputs).numpy()
    return vectors


def test_held_out_viewers_ask_in_the_context_of_their_watch(
    of_context: RetrievalData, context_tables: Tables
) -> None:
    last = context_tables[0][context_tables[0]["part"] == "validation"].groupby("viewer_id").tail(1)
    wanted = sorted(map(tuple, last[COLUMNS].to_numpy().tolist()))
    assert sorted(each.viewer.context for each in of_context.validation) == wanted


def test_an_unknown_context_adds_nothing(of_context: RetrievalData, small: RetrievalConfig) -> None:
    model = random_towers(of_context, small)
    [one, *_] = of_context.validation
    unknown = replace(one.viewer, context=UNKNOWN)
    found = asked(of_context, model, replace(one.viewer, context=(5, 1, 2, 88)), unknown)
    model.viewer_tower.context = ContextEmbeddings((), 1)
    without = asked(replace(of_context, context=()), model, unknown)
    np.testing.assert_allclose(found[1], without[0], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_without_context_everything_is_as_if_there_were_no_such_feature(
    ring: RetrievalData, context_tables: Tables, small: RetrievalConfig
) -> None:
    plain, off = ring, RetrievalData.build(*context_tables, context=False)
    assert plain.context == off.context == ()
    assert plain.fingerprint() == off.fingerprint()
    one, other = (random_towers(each, small).state_dict() for each in (plain, off))
    assert not any("context" in name for name in one)
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    viewer = replace(plain.validation[0].viewer, context=(5, 1, 2, 88))
    names = ["history", "gaps", "asked_gap", "lengths", "attributes"]
    assert list(plain.inputs([viewer], 20)) == names
