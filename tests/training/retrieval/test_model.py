from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.server.features.tower_inputs import ATTRIBUTE_LIMIT
from vireo.training.retrieval import towers
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower, VideoTower, ages_of
from vireo.training.retrieval.towers import readable, viewer_vectors

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


def inputs(history: list[list[int]], lengths: list[int]) -> Inputs:
    rows = np.array(history)
    return {
        "history": rows,
        "gaps": np.broadcast_to(np.arange(rows.shape[1]) % 5, rows.shape).copy(),
        "asked_gap": np.arange(len(history)) + 7,
        "lengths": np.array(lengths),
        "attributes": np.zeros((len(history), ATTRIBUTE_LIMIT), np.int64),
    }


def vectors_of(model: TwoTower, given: Inputs) -> torch.Tensor:
    return viewer_vectors(model, readable(model.video_vectors()), given)


def test_vectors_have_the_shapes_declared(ring: RetrievalData, small: RetrievalConfig) -> None:
    model = seeded(ring, small)

    assert model.video_vectors().shape == (30, 16)
    assert vectors_of(model, inputs([[1, 2], [3, 0]], [2, 1])).shape == (2, 16)


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_last_state_alone_equals_that_of_all_states(
    ring: RetrievalData, small: RetrievalConfig, blocks: int
) -> None:
    model = seeded(ring, replace(small, blocks=blocks))
    given = inputs([[1, 2, 3], [4, 5, 0], [0, 0, 0]], [3, 2, 0])
    watched = readable(model.video_vectors())[torch.from_numpy(given["history"])]

    gaps = np.zeros((3, 4), np.int64)
    for viewer, length in enumerate(given["lengths"].tolist()):
        gaps[viewer, :length] = given["gaps"][viewer, :length]
        gaps[viewer, length] = given["asked_gap"][viewer]
    attributes = torch.from_numpy(given["attributes"])
    states = model.viewer_tower(watched, torch.from_numpy(gaps), attributes)

    last = states[torch.arange(3), given["lengths"]]
    assert torch.allclose(vectors_of(model, given), last, atol=1e-5)


def test_more_viewers_than_are_computed_at_once_have_the_same_vectors(
    ring: RetrievalData, small: RetrievalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seeded(ring, small)
    given = inputs([[1, 2, 3], [4, 5, 0], [0, 0, 0]], [3, 2, 0])
    whole = vectors_of(model, given)
    monkeypatch.setattr(towers, "VIEWERS_AT_ONCE", 2)

    assert torch.allclose(vectors_of(model, given), whole, atol=1e-6)


def test_padding_changes_nothing(ring: RetrievalData, small: RetrievalConfig) -> None:
    model = seeded(ring, small)

    exact = vectors_of(model, inputs([[1, 2]], [2]))
    padded = vectors_of(model, inputs([[1, 2, 0, 0, 0]], [2]))

    assert torch.allclose(exact, padded, atol=1e-5)


def test_no_state_depends_on_later_watches(ring: RetrievalData, small: RetrievalConfig) -> None:
    model = seeded(ring, small)
    table = readable(model.video_vectors())
    nobody = torch.zeros(1, ATTRIBUTE_LIMIT, dtype=torch.int64)

    states = [
        model.viewer_tower(table[torch.tensor([history])], torch.tensor([gaps]), nobody)
        for history, gaps in (([1, 2, 3], [0, 1, 2, 3]), ([1, 2, 9], [0, 1, 2, 4]))
    ]

    assert torch.allclose(states[0][:, :3], states[1][:, :3], atol=1e-5)
    assert not torch.allclose(states[0][:, 3], states[1][:, 3], atol=1e-3)


@pytest.mark.parametrize("changed", ["history", "gaps", "asked_gap", "attributes"])
def test_every_input_matters(ring: RetrievalData, small: RetrievalConfig, changed: str) -> None:
    model = seeded(ring, small)
    given = inputs([[1, 2, 3]], [3])
    other = given | {changed: given[changed].copy()}
    other[changed][0] += 1

    assert not torch.allclose(vectors_of(model, given), vectors_of(model, other), atol=1e-3)


def test_a_longer_absence_than_any_in_training_is_the_longest_there(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    model = seeded(ring, small)
    tower = model.viewer_tower
    with torch.no_grad():
        for steps in (tower.asked_steps, tower.age_steps):
            assert steps is not None
            steps.weight[20:] = 0  # what no batch had leaves them as small as they begin
    absences = np.array([18, 19, 25, 31])

    asked = vectors_of(model, inputs([[1, 2]] * 4, [2] * 4) | {"asked_gap": absences})

    assert not torch.allclose(asked[0], asked[1], atol=1e-3)
    assert torch.equal(asked[1:], asked[1:2].expand(3, -1))


def test_ages_are_those_at_the_next_watch_or_the_request() -> None:
    # Three watches, 5 s and 2 s apart, and a request 11 s later, by the middles of the buckets.
    gaps = torch.tensor([[0, 3, 2, 4]])

    ages = ages_of(gaps)[0]

    assert ages[3].tolist() == [0, 5, 4, 4]
    assert [ages[state, state].item() for state in (1, 2, 3)] == [3, 2, 4]


def test_attention_depends_on_how_long_ago_an_earlier_watch_was(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    model = seeded(ring, small)
    tower = model.viewer_tower
    assert tower.asked_steps is not None
    assert tower.age_steps is not None

    def difference() -> float:
        first, second = (
            vectors_of(model, inputs([[1, 2, 3]], [3]) | {"gaps": np.array([gaps])})
            for gaps in ([0, 3, 9], [0, 9, 3])
        )
        return float((first - second).abs().max())

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
    given = inputs([[1, 2, 3]], [3])

    later = vectors_of(model, given | {"asked_gap": given["asked_gap"] + 9})

    assert torch.equal(vectors_of(model, given), later)


def test_the_order_of_the_history_matters(ring: RetrievalData, small: RetrievalConfig) -> None:
    model = seeded(ring, small)

    forth = vectors_of(model, inputs([[1, 2, 3]], [3]))
    back = vectors_of(model, inputs([[3, 2, 1]], [3]))

    assert not torch.allclose(forth, back, atol=1e-3)


def test_a_video_never_watched_has_the_vector_of_its_content(small: RetrievalConfig) -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["x", "y", "z"]}),
        videos_frame(["x", "new", "new too", "y", "z"], [["t"], ["t"], ["t"], ["u"], ["u"]]),
        viewers_frame({}),
    )

    vectors = seeded(data, small).video_vectors()

    assert torch.equal(vectors[1], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1])
    assert vectors[1].any()


def test_id_dropout_leaves_some_videos_their_content_alone(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    model = seeded(ring, replace(small, id_dropout=0.5))
    content_alone = model.video_vectors() - model.video_tower.id_embedding.weight
    torch.manual_seed(1)

    vectors = model.train().video_vectors()

    dropped = torch.isclose(vectors, content_alone, atol=1e-5).all(1)
    assert 3 < int(dropped.sum()) < 27


def test_vectors_of_some_rows_are_those_of_the_whole_table(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    model = seeded(ring, small)
    rows = torch.tensor([7, 0, 7])

    assert torch.allclose(model.video_tower(rows), model.video_vectors()[rows], atol=1e-6)


def test_the_whole_table_is_made_a_part_at_a_time(
    ring: RetrievalData, small: RetrievalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seeded(ring, small)
    sizes: list[int] = []

    def forward(tower: VideoTower, rows: torch.Tensor | None = None) -> torch.Tensor:
        sizes.append(ring.video_count if rows is None else len(rows))
        return whole(tower, rows)

    whole = VideoTower.forward
    monkeypatch.setattr(VideoTower, "forward", forward)
    monkeypatch.setattr("vireo.training.retrieval.model.ROWS_AT_ONCE", 8)
    with torch.no_grad():
        parts = model.video_vectors()

    assert sizes == [8, 8, 8, 6]
    assert torch.equal(parts, model.video_vectors())


def test_videos_without_content_are_their_ids(small: RetrievalConfig) -> None:
    data = RetrievalData.build(
        watches_frame({"a": ["x", "y"], "b": ["y", "x"]}),
        videos_frame(["x", "y"]),
        viewers_frame({}),
    )
    model = seeded(data, small)

    vectors = model.video_vectors().detach().numpy()

    assert np.isfinite(vectors).all()
    assert np.allclose(vectors, model.video_tower.id_embedding.weight.detach().numpy())
