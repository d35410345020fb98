"""The context of watches and requests in the towers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.retrieval.conftest import Tables
from vireo.server.features.context import NAMES, UNKNOWN, sizes
from vireo.server.features.tower_inputs import tower_inputs
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.inference.model import Model
from vireo.server.inference.signature import VIDEOS, tower_signature
from vireo.training.data.context import watch_column
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.export import export_viewer_tower
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.sequences import Watches
from vireo.training.retrieval.towers import readable, viewer_vectors
from vireo.training.retrieval.windows import Windows


@pytest.fixture(scope="module")
def tables(ring_tables: Tables) -> Tables:
    """The ring, each watch with a context."""
    watches, videos, viewers = ring_tables
    random = np.random.default_rng(3)
    columns = {
        watch_column(name): random.integers(0, size, len(watches)).astype(np.int16)
        for name, size in zip(NAMES, sizes(NAMES), strict=True)
    }
    return watches.assign(**columns), videos, viewers


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
    whole = [group.train for group in data.sequences.groups()]
    windows = Windows(Watches.joined(whole), data.attributes(), 4, 64)
    [batch, *_] = windows.batches(np.random.default_rng(1))
    trained = windows.encode(batch)
    watches = tables[0].sort_values(["viewer_id", "time"])
    train = watches[watches["part"] == "train"].reset_index(drop=True)

    for row, (_, start, stop) in enumerate(batch):
        for place in range(stop - start):
            logged = train.iloc[start + place]
            context = tuple(int(logged[watch_column(name)]) for name in NAMES)
            served = tower_inputs(
                [ViewerFeatures(context=context)], data.video_rows(), {}, 4, data.context
            )
            assert trained.context[row, place].tolist() == served["context"][0].tolist()
        assert not trained.context[row, stop - start :].any()


def test_held_out_viewers_ask_in_the_context_of_their_watch(
    data: RetrievalData, tables: Tables
) -> None:
    watches = tables[0]
    last = watches[watches["part"] == "validation"].groupby("viewer_id").tail(1)
    columns = [watch_column(name) for name in NAMES]
    wanted = sorted(map(tuple, last[columns].to_numpy().tolist()))
    assert sorted(each.viewer.context for each in data.validation) == wanted


def test_training_and_serving_compute_the_same_state(
    data: RetrievalData, small: RetrievalConfig
) -> None:
    model = towers(data, small)
    [one, *_] = data.validation
    served = asked(data, model, one.viewer)[0]

    table = readable(model.video_vectors())
    inputs = data.inputs([one.viewer], small.history_limit)
    history = torch.from_numpy(inputs["history"])
    gaps = torch.from_numpy(np.append(inputs["gaps"], inputs["asked_gap"][None], 1))
    context = torch.zeros(1, gaps.shape[1], len(NAMES), dtype=torch.int64)
    context[0, -1] = torch.from_numpy(inputs["context"][0])
    with torch.no_grad():
        watched = torch.nn.functional.embedding(history, table)
        attributes = torch.from_numpy(inputs["attributes"])
        states = model.viewer_tower(watched, gaps, attributes, context=context)

    np.testing.assert_allclose(states[0, -1].numpy(), served, atol=1e-5)


def test_an_unknown_context_adds_nothing(data: RetrievalData, small: RetrievalConfig) -> None:
    model = towers(data, small)
    [one, *_] = data.validation
    unknown = replace(one.viewer, context=UNKNOWN)
    known = replace(one.viewer, context=(5, 1, 2, 88))

    found = asked(data, model, known, unknown)
    model.viewer_tower.context = None
    inputs = data.inputs([unknown], small.history_limit)
    del inputs["context"]
    with torch.no_grad():
        without = viewer_vectors(model, readable(model.video_vectors()), inputs).numpy()

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


def test_the_export_reads_the_context_and_equals_pytorch(
    data: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    model = towers(data, small)
    path = tmp_path / "1" / "model.onnx"

    export_viewer_tower(model, path)

    vectors = np.load(path.with_name("vectors.npy"))
    signature = tower_signature(vectors.shape[1], len(NAMES))
    served = Model(path, signature, {VIDEOS: vectors})
    assert served.inputs["context"].shape == ("batch", len(NAMES))
    viewers = [each.viewer for each in data.validation[:5]]
    given = served.run(data.inputs(viewers, small.history_limit))
    np.testing.assert_allclose(given, asked(data, model, *viewers), atol=1e-4)


def test_without_context_everything_is_as_if_there_were_no_such_feature(
    ring_tables: Tables, tables: Tables, small: RetrievalConfig, tmp_path: Path
) -> None:
    plain, off = RetrievalData.build(*ring_tables), RetrievalData.build(*tables, context=False)

    assert plain.context == off.context == ()
    assert plain.fingerprint() == off.fingerprint()
    models = [towers(each, small) for each in (plain, off)]
    assert not any("context" in name for name in models[0].state_dict())
    for name, weight in models[0].state_dict().items():
        assert torch.equal(weight, models[1].state_dict()[name])
    [one, *_] = plain.validation
    ours = tower_inputs(
        [replace(one.viewer, context=(5, 1, 2, 88))], plain.video_rows(), plain.vocabulary, 20
    )
    assert list(ours) == ["history", "gaps", "asked_gap", "lengths", "attributes"]
    path = tmp_path / "1" / "model.onnx"
    export_viewer_tower(models[0], path)
    vectors = np.load(path.with_name("vectors.npy"))
    served = Model(path, tower_signature(vectors.shape[1]), {VIDEOS: vectors})
    assert set(served.inputs) <= {"history", "gaps", "asked_gap", "lengths", "attributes"}


def test_a_file_of_sequences_keeps_the_context_of_both_parts(
    tables: Tables, data: RetrievalData, tmp_path: Path
) -> None:
    watches, videos, viewers = tables
    source = tmp_path / "watches.parquet"
    watches.sort_values("viewer_id", kind="stable").to_parquet(source)

    streamed = RetrievalData.stream(source, videos, viewers, tmp_path / "sequences.parquet")

    assert streamed.context == NAMES
    assert streamed.fingerprint() == data.fingerprint()
