from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.server.features.model_inputs import ATTRIBUTE_LIMIT
from vireo.training.retrieval import model as module
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower, VideoTower, ages_of, readable, viewer_vectors

Inputs = dict[str, npt.NDArray[np.int64]]


def seeded(data: RetrievalData, config: RetrievalConfig) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(data, config)
    for parameter in model.parameters():  # No term may hide behind a zero initial value.
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.video_tower.token_embedding.weight[0] = 0
        model.viewer_tower.attribute_embedding.weight[0] = 0
    return model.eval()


@pytest.fixture
def model(ring: RetrievalData, small: RetrievalConfig) -> TwoTower:
    return seeded(ring, small)


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


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_last_state_alone_equals_that_of_all_states(
    ring: RetrievalData, small: RetrievalConfig, blocks: int
) -> None:
    model = seeded(ring, replace(small, blocks=blocks))
    watched = readable(model.video_vectors())[torch.from_numpy(MANY["history"])]
    gaps = np.zeros((3, 4), np.int64)
    for viewer, length in enumerate(MANY["lengths"].tolist()):
        gaps[viewer, :length] = MANY["gaps"][viewer, :length]
        gaps[viewer, length] = MANY["asked_gap"][viewer]
    attributes = torch.from_numpy(MANY["attributes"])
    states = model.viewer_tower(watched, torch.from_numpy(gaps), attributes)
    last = states[torch.arange(3), MANY["lengths"]]
    assert last.shape == (3, 16)
    assert torch.allclose(vectors_of(model, MANY), last, atol=1e-5)


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
            assert steps is not None
            steps.weight[20:] = 0  # what no batch had leaves them as small as they begin
    asked = vectors_of(model, inputs(*[[1, 2]] * 4, asked_gap=[18, 19, 25, 31]))
    assert not torch.allclose(asked[0], asked[1], atol=1e-3)
    assert torch.equal(asked[1:], asked[1:2].expand(3, -1))


def test_ages_are_those_at_the_next_watch_or_the_request() -> None:
    # Three watches, 5 s and 2 s apart, and a request 11 s later, by the middles of the buckets.
    ages = ages_of(torch.tensor([[0, 3, 2, 4]]))[0]
    assert ages[3].tolist() == [0, 5, 4, 4]
    assert [ages[state, state].item() for state in (1, 2, 3)] == [3, 2, 4]


def test_attention_depends_on_how_long_ago_an_earlier_watch_was(model: TwoTower) -> None:
    tower = model.viewer_tower
    assert tower.asked_steps is not None
    assert tower.age_steps is not None

    def difference() -> float:
        one, other = (
            vectors_of(model, inputs([1, 2, 3], gaps=[gaps])) for gaps in ([0, 3, 9], [0, 9, 3])
        )
        return float((one - other).abs().max())

    with torch.no_grad():
        tower.gap_embedding.weight.zero_()
        tower.asked_steps.weight.zero_()
        assert difference() > 1e-3
        tower.age_steps.weight.zero_()
        assert difference() == 0


def test_a_tower_may_do_without_the_moment_asked(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    model = seeded(ring, replace(small, asked_gap=False))
    one, later = inputs([1, 2, 3]), inputs([1, 2, 3], asked_gap=[16])
    assert torch.equal(vectors_of(model, one), vectors_of(model, later))


@pytest.mark.parametrize("described", [True, False])
def test_a_video_never_watched_has_the_vector_of_its_content(
    small: RetrievalConfig, described: bool
) -> None:
    tags = [["t"], ["t"], ["t"], ["u"], ["u"]] if described else None
    videos = videos_frame(["x", "new", "new too", "y", "z"], tags)
    data = RetrievalData.build(watches_frame({"a": ["x", "y", "z"]}), videos, viewers_frame({}))
    vectors = seeded(data, small).video_vectors()
    assert torch.equal(vectors[1], vectors[2])
    assert bool(vectors[1].any()) is described
    assert not torch.allclose(vectors[0], vectors[1])


def test_id_dropout_leaves_some_videos_their_content_alone(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    model = seeded(ring, replace(small, id_dropout=0.5))
    content_alone = model.video_vectors() - model.video_tower.id_embedding.weight
    torch.manual_seed(1)
    vectors = model.train().video_vectors()
    dropped = torch.isclose(vectors, content_alone, atol=1e-5).all(1)
    assert 3 < int(dropped.sum()) < 27


def test_the_whole_table_is_made_a_part_at_a_time(
    ring: RetrievalData, model: TwoTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def forward(tower: VideoTower, rows: torch.Tensor | None = None) -> torch.Tensor:
        sizes.append(ring.video_count if rows is None else len(rows))
        return whole(tower, rows)

    whole = VideoTower.forward
    monkeypatch.setattr(VideoTower, "forward", forward)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 8)
    with torch.no_grad():
        parts = model.video_vectors()
    assert sizes == [8, 8, 8, 6]
    assert torch.equal(parts, model.video_vectors())
    rows = torch.tensor([7, 0, 7])
    assert torch.allclose(model.video_tower(rows), parts[rows], atol=1e-6)
