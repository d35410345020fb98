"""The context of watches and requests in the towers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from vireo.server.features.context import NAMES, UNKNOWN, sizes
from vireo.server.features.model_inputs import tower_inputs
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.data.context import watch_column
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower, readable, viewer_vectors
from vireo.training.retrieval.windows import Windows

Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
COLUMNS = [watch_column(name) for name in NAMES]


@pytest.fixture(scope="module")
def tables(ring_tables: Tables) -> Tables:
    """The ring, each watch with a context."""
    watches, videos, viewers = ring_tables
    random = np.random.default_rng(3)
    ids = [random.integers(0, size, len(watches)).astype(np.int16) for size in sizes(NAMES)]
    return watches.assign(**dict(zip(COLUMNS, ids, strict=True))), videos, viewers


@pytest.fixture(scope="module")
def data(tables: Tables) -> RetrievalData:
    return RetrievalData.build(*tables)


def towers(data: RetrievalData, config: RetrievalConfig) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(data, config).eval()
    for weight in model.viewer_tower.blocks.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    if model.viewer_tower.context is not None:
        for weight in model.viewer_tower.context.parameters():
            torch.nn.init.normal_(weight)
            weight.data[0] = 0
    return model


def asked(data: RetrievalData, model: TwoTower, *viewers: ViewerFeatures) -> np.ndarray:
    inputs = data.inputs(viewers, model.config.history_limit)
    with torch.no_grad():
        vectors: np.ndarray = viewer_vectors(model, readable(model.video_vectors()), inputs).numpy()
    return vectors


def test_a_window_has_the_context_that_serving_gives_the_request_for_its_targets(
    data: RetrievalData, tables: Tables
) -> None:
    windows = Windows(data.train, data.attributes, 4, 64)
    [batch, *_] = windows.batches(np.random.default_rng(1))
    trained = windows.encode(batch)
    train = tables[0][tables[0]["part"] == "train"].reset_index(drop=True)
    for row, (_, start, stop) in enumerate(batch):
        for place, logged in enumerate(train[COLUMNS].to_numpy()[start:stop]):
            viewer = ViewerFeatures(context=tuple(logged.tolist()))
            served = tower_inputs([viewer], data.video_rows, {}, 4, data.context)
            assert trained.context[row, place].tolist() == served["context"][0].tolist()
        assert not trained.context[row, stop - start :].any()


def test_held_out_viewers_ask_in_the_context_of_their_watch(
    data: RetrievalData, tables: Tables
) -> None:
    last = tables[0][tables[0]["part"] == "validation"].groupby("viewer_id").tail(1)
    wanted = sorted(map(tuple, last[COLUMNS].to_numpy().tolist()))
    assert sorted(each.viewer.context for each in data.validation) == wanted


def test_training_and_serving_compute_the_same_state(
    data: RetrievalData, small: RetrievalConfig
) -> None:
    model = towers(data, small)
    [one, *_] = data.validation
    inputs = data.inputs([one.viewer], small.history_limit)
    history = torch.from_numpy(inputs["history"])
    gaps = torch.from_numpy(np.append(inputs["gaps"], inputs["asked_gap"][None], 1))
    context = torch.zeros(1, gaps.shape[1], len(NAMES), dtype=torch.int64)
    context[0, -1] = torch.from_numpy(inputs["context"][0])
    with torch.no_grad():
        watched = torch.nn.functional.embedding(history, readable(model.video_vectors()))
        attributes = torch.from_numpy(inputs["attributes"])
        states = model.viewer_tower(watched, gaps, attributes, context=context)
    np.testing.assert_allclose(states[0, -1].numpy(), asked(data, model, one.viewer)[0], atol=1e-5)


def test_an_unknown_context_adds_nothing(data: RetrievalData, small: RetrievalConfig) -> None:
    model = towers(data, small)
    [one, *_] = data.validation
    unknown = replace(one.viewer, context=UNKNOWN)
    found = asked(data, model, replace(one.viewer, context=(5, 1, 2, 88)), unknown)
    model.viewer_tower.context = None
    without = asked(replace(data, context=()), model, unknown)
    np.testing.assert_allclose(found[1], without[0], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_training_drops_context_at_random_and_serving_none(
    data: RetrievalData, small: RetrievalConfig
) -> None:
    tower = TwoTower(data, replace(small, context_dropout=0.5)).viewer_tower
    ids = torch.ones(50, 8, len(NAMES), dtype=torch.int64)
    dropped = tower.train()._some(ids)
    assert 0.1 < dropped.float().mean() < 0.4
    assert ((dropped == 0).all(-1)).any()
    assert tower.eval()._some(ids) is ids


def test_without_context_everything_is_as_if_there_were_no_such_feature(
    ring_tables: Tables, tables: Tables, small: RetrievalConfig
) -> None:
    plain, off = RetrievalData.build(*ring_tables), RetrievalData.build(*tables, context=False)
    assert plain.context == off.context == ()
    assert plain.fingerprint() == off.fingerprint()
    one, other = (towers(each, small).state_dict() for each in (plain, off))
    assert not any("context" in name for name in one)
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    viewer = replace(plain.validation[0].viewer, context=(5, 1, 2, 88))
    names = ["history", "gaps", "asked_gap", "lengths", "attributes"]
    assert list(plain.inputs([viewer], 20)) == names
