"""Watches, viewers, and videos with their content, in the form that towers learn from."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tests.builders.watches import EPOCH, towers_data, videos_frame, viewers_frame, watches_frame
from vireo.server.features.content import CONTENT_LIMIT, content_ids, content_tokens, title_words
from vireo.server.features.context import NAMES
from vireo.server.features.model_inputs import tower_inputs
from vireo.server.features.viewer import ViewerFeatures
from vireo.training.config import RetrievalConfig
from vireo.training.data.context import watch_column
from vireo.training.retrieval import data as module
from vireo.training.retrieval.content import catalogue_tokens, fit_ridge, shared_vocabulary
from vireo.training.retrieval.data import RetrievalData, Watches
from vireo.training.retrieval.windows import WindowBatch, Windows, epoch_batches


def watched(data: RetrievalData) -> list[list[int]]:
    """The rows that each viewer watched in the train part, oldest first."""
    return [part.tolist() for part in np.split(data.train.rows, data.train.offsets[1:-1])]


def targets(data: RetrievalData) -> list[int]:
    return [held_out.target for held_out in data.validation]


def test_watches_become_rows_in_order_and_the_validation_watch_is_kept_apart() -> None:
    data = towers_data({"b": "xz", "a": "zyx", "c": "y"}, "xyz")
    assert data.viewer_ids == ("a", "b", "c")
    assert watched(data) == [
        [2, 1],
        [0],
        [],
    ]
    assert targets(data) == [0, 2, 1]
    assert data.watch_counts.tolist() == [1, 1, 1]
    assert len(data.viewer_features(2).history_keys) == 0
    # Without attributes and content nothing else is needed.
    assert data.vocabulary == data.content_vocabulary == {}
    assert not data.attributes.any()
    assert not data.content.any()


def test_the_test_part_is_never_looked_at() -> None:
    watches = watches_frame({"a": "xyz", "b": "zxy"})
    watches.loc[watches["part"] == "validation", "part"] = "test"
    tables = videos_frame(list("xyz")), viewers_frame({})
    data = RetrievalData.build(watches, *tables)
    without = RetrievalData.build(watches[watches["part"] != "test"], *tables)
    assert data.fingerprint() == without.fingerprint()
    assert targets(data) == []


def test_attributes_that_viewers_share_have_ids() -> None:
    shared = {viewer: ["age=30", f"zip={viewer}"] for viewer in ("a", "b")}
    data = towers_data({"a": "xy", "b": "yx", "c": "yx"}, "xyz", attributes=shared)
    assert data.vocabulary == {"age=30": 1}
    assert data.attributes[:, 0].tolist() == [1, 1, 0]


def test_fingerprints_tell_watches_times_and_publications_apart() -> None:
    watches, videos = watches_frame({"a": "xyz"}), videos_frame(list("xyz"))
    later = watches.assign(time=watches["time"] + pd.Timedelta(days=1))
    published = videos.assign(
        published=pd.Series([pd.NaT, EPOCH, EPOCH], dtype="datetime64[us, UTC]")
    )
    prints = {
        RetrievalData.build(*tables, viewers_frame({})).fingerprint()
        for tables in ((watches, videos), (later, videos), (watches, published))
    }
    assert len(prints) == 3


def test_viewers_have_the_features_of_a_request_after_or_before_a_watch() -> None:
    ages = {"b": ["age=30"], "a": ["age=30"]}
    data = towers_data({"a": "xyz", "b": "zy"}, "xyz", attributes=ages, held_out=2)
    assert watched(data) == [
        [0],
        [],
    ]
    assert data.video_rows.find(data.viewer_features(0).history_keys).tolist() == [0]
    first, second = data.validation
    assert (first.watched.tolist(), first.target) == ([0, 1], 2)
    assert (second.watched.tolist(), second.target) == ([2], 1)
    assert data.video_rows.find(first.viewer.history_keys).tolist() == [0, 1]
    assert np.diff(first.viewer.history_times).tolist() == [3600]
    assert second.viewer.attributes == ("age=30",)


def test_a_video_counts_as_published_from_its_first_watch_at_the_latest() -> None:
    watches = watches_frame({"x": "abcd", "y": "bd"})
    videos = videos_frame(list("abcde"))
    assert RetrievalData.build(watches, videos, viewers_frame({})).published is None
    start, hour = int(EPOCH.timestamp()), 3600
    days = [EPOCH, EPOCH + pd.Timedelta(hours=9), EPOCH + pd.Timedelta(hours=1), pd.NaT, EPOCH]
    videos["published"] = pd.Series(days, dtype="datetime64[us, UTC]")
    published = RetrievalData.build(watches, videos, viewers_frame({})).published
    assert published is not None
    assert published.tolist() == [start, start, start + hour, 0, start]


def test_groups_are_all_viewers_in_order_and_change_nothing_else(
    ring: RetrievalData, grouped: RetrievalData
) -> None:
    assert [len(group) for group in ring.groups] == [89, 1], "the last viewer is alone"
    assert len(grouped.groups) > 5
    assert [viewer for group in grouped.groups for viewer in group] == [*range(90)]
    assert grouped.fingerprint() != ring.fingerprint()
    assert np.array_equal(grouped.train.rows, ring.train.rows)
    assert targets(grouped) == targets(ring)


def test_a_viewer_with_more_watches_than_a_group_has_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GROUP_WATCHES", 4)
    ids = [f"v{number}" for number in range(30)]
    data = towers_data({"a": ids[:3], "b": ids, "c": ids[:5]}, ids)
    assert data.groups == (range(1), range(1, 2), range(2, 3))
    assert np.diff(data.train.offsets).tolist() == [2, 29, 4]


def test_of_many_viewers_validation_asks_a_sample(
    ring: RetrievalData, ring_tables: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VALIDATION_LIMIT", 20)
    first, second = (RetrievalData.build(*ring_tables) for _ in range(2))
    assert targets(first) == targets(second)
    assert len(targets(first)) == 20


def test_no_watches_are_data_without_viewers() -> None:
    data = towers_data({}, "xyz")
    assert (data.viewer_ids, data.watch_count, data.validation) == ((), 0, ())
    assert (data.groups, data.watch_counts.tolist()) == ((), [0, 0, 0])
    assert data.attributes.shape == (0, 16)


Tables = tuple[pd.DataFrame, ...]


@pytest.fixture(scope="module")
def windows(ring: RetrievalData) -> Windows:
    return Windows(ring.train, ring.attributes, 4, 64)


@pytest.fixture(scope="module")
def batches(windows: Windows) -> list[npt.NDArray[np.int64]]:
    return windows.batches(np.random.default_rng(1))


def test_every_watch_is_a_target_once_in_a_window_of_one_viewer(
    ring: RetrievalData, windows: Windows, batches: list[npt.NDArray[np.int64]]
) -> None:
    offsets = ring.train.offsets
    every = np.concatenate(batches)
    covered = np.concatenate([np.arange(start, stop) for _, start, stop in every])
    assert sorted(covered) == list(range(ring.watch_count))
    for viewer, start, stop in every:
        assert offsets[viewer] <= start < stop <= min(start + 5, offsets[viewer + 1])
    assert max(windows.encode(batch).targets.numel() for batch in batches) <= 64


def test_windows_differ_by_epoch_and_repeat_by_seed(
    ring: RetrievalData, small: RetrievalConfig
) -> None:
    def targets(seed: int, epoch: int) -> bytes:
        batches = epoch_batches(ring, replace(small, seed=seed), epoch)
        return b"".join(batch.targets.numpy().tobytes() for batch in batches)

    assert targets(1, 0) == targets(1, 0)
    assert len({targets(1, 0), targets(1, 1), targets(2, 0)}) == 3


@pytest.mark.parametrize("kind", ["ring", "of_context"])
def test_a_window_is_encoded_as_serving_encodes_the_same_history(
    kind: str, context_tables: Tables, request: pytest.FixtureRequest
) -> None:
    data: RetrievalData = request.getfixturevalue(kind)
    windows = Windows(data.train, data.attributes, 4, 64)
    batches = windows.batches(np.random.default_rng(1))
    watches = context_tables[0]
    logged = watches.loc[watches["part"] == "train", [watch_column(name) for name in NAMES]]
    contexts = [tuple(ids) for ids in logged.to_numpy().tolist()]
    rows, times, batch = data.train.rows, data.train.times, batches[0]
    viewers = [
        ViewerFeatures(
            history_keys=data.keys[rows[start : stop - 1]],
            history_times=times[start : stop - 1],
            attributes=data.viewer_features(viewer).attributes,
            asked_at=int(times[stop - 1]),
            context=contexts[stop - 1],
        )
        for viewer, start, stop in batch
    ]
    served = tower_inputs(viewers, data.video_rows, data.vocabulary, 4, data.context)
    trained = WindowBatch(*(each.numpy() for each in windows.encode(batch)))  # type: ignore[arg-type]
    # A batch of single watches has no history at all, serving pads it to one.
    width = trained.history.shape[1]
    assert np.array_equal(trained.history, served["history"][:, :width])
    lengths = served["lengths"]
    assert trained.gaps.shape == trained.targets.shape
    assert np.array_equal(trained.gaps[np.arange(len(batch)), lengths], served["asked_gap"])
    read = np.arange(width) < lengths[:, None]
    assert np.array_equal(np.where(read, trained.gaps[:, :-1], 0), served["gaps"][:, :width])
    assert np.array_equal(trained.attributes, served["attributes"])
    for row, (_, start, stop) in enumerate(batch):
        assert trained.targets[row, : stop - start].tolist() == rows[start:stop].tolist()
        assert (trained.targets[row, stop - start :] == -1).all()
        if data.context:
            assert (
                trained.context[row, stop - start - 1].tolist() == served["context"][row].tolist()
            )
            assert not trained.context[row, stop - start :].any()


@pytest.mark.parametrize("together", [1, 300, 10_000])
def test_an_epoch_has_every_watch_once_and_holds_few_more_than_are_shuffled_together(
    grouped: RetrievalData, small: RetrievalConfig, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(watches: Watches, *others: Any) -> Windows:
        sizes.append(len(watches.rows))
        return Windows(watches, *others)

    monkeypatch.setattr("vireo.training.retrieval.windows.Windows", counted)
    batches = list(epoch_batches(grouped, replace(small, shuffle_watches=together), 0))
    targets = np.concatenate([batch.targets.ravel() for batch in batches])
    assert np.sort(targets[targets >= 0]).tolist() == np.sort(grouped.train.rows).tolist()
    largest = max(len(group) for group in grouped.groups) * 12
    assert max(sizes) < together + largest


def test_a_video_is_described_by_tags_time_length_and_words() -> None:
    tokens = content_tokens("The Thin, thin Man", ["Crime"], 1934, 91 * 60.0)
    words = ["word=the", "word=thin", "word=man"]
    assert tokens == ["tag=Crime", "decade=193", "year=1934", "duration=25", *words]
    assert content_tokens("", [], None, None) == []


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("東京タワー 2024", ["東京", "京タ", "タワ", "ワー", "2024"]),
        ("我爱vlog日常", ["我爱", "vlog", "日常"]),
        ("猫", ["猫"]),
        ("ที่นี่", ["ที่นี่"]),
        ("กินข้าว", ["กิน", "นข้", "ข้า", "าว"]),
        ("हिन्दी फ़िल्म", ["हिन्दी", "फ़िल्म"]),
        ("தமிழ் பாடல்", ["தமிழ்", "பாடல்"]),
        ("한국 드라마", ["한국", "드라마"]),
        ("\uff21\uff22\uff23 \uff76\uff9e\uff70", ["abc", "ガー"]),
        ("Cafe\u0301 snake_case, don't", ["café", "snake_case", "don", "t"]),
    ],
)
def test_titles_of_any_script_become_words(title: str, words: list[str]) -> None:
    assert title_words(title) == [unicodedata.normalize("NFKC", word) for word in words]


def test_many_tags_leave_room_for_the_words_of_a_title() -> None:
    tags = [f"t{number}" for number in range(40)]
    bag = content_tokens("a longer title of a video", tags, 2024, 60.0, "ana")
    assert len(bag) == 40 + 4 + 5
    kept = content_ids([bag], {token: number for number, token in enumerate(bag, start=1)})[0]
    first = [bag[number - 1] for number in kept.tolist()]
    words = [each.removeprefix("word=") for each in first if each.startswith("word=")]
    assert words == ["a", "longer", "title", "of", "video"]
    assert {"creator=ana", "year=2024", "tag=t0"} <= set(first)


def test_what_a_catalogue_lacks_is_left_out() -> None:
    videos = pd.DataFrame(
        {
            "title": ["a", "b", "c"],
            "tags": [[], ["t"], []],
            "published": [pd.NaT, pd.Timestamp("1999-05-01", tz="UTC"), pd.NaT],
            "duration": pd.Series([None, 0.0, None], dtype="float32"),
            "creator": ["ana", None, None],
        }
    )
    bags = [["creator=ana", "word=a"], ["tag=t", "decade=199", "year=1999", "word=b"], ["word=c"]]
    assert catalogue_tokens(videos) == bags


def test_tokens_of_one_video_alone_are_not_learned_and_ids_are_padded() -> None:
    assert shared_vocabulary([["a", "b"], ["b", "c"], ["b", "c"]]) == {"b": 1, "c": 2}
    many = [f"t{index}" for index in range(CONTENT_LIMIT + 5)]
    vocabulary = {token: index for index, token in enumerate(many, start=1)}
    ids = content_ids([["t1", "?", "t0"], many, []], vocabulary)
    assert ids.shape == (3, CONTENT_LIMIT)
    assert ids[0, :3].tolist() == [2, 1, 0]
    assert ids[1].all()
    assert not ids[2].any()


def test_an_embedding_is_guessed_from_what_videos_of_the_same_content_have() -> None:
    content = np.array([[1, 3]] * 30 + [[2, 3]] * 30 + [[1, 0], [2, 0]])
    counts = np.array([50] * 60 + [0, 0])
    known = np.repeat(np.eye(2), 30, axis=0)
    guessed = fit_ridge(content, counts, known).of(content)[counts == 0]
    assert np.allclose(guessed, [[1, 0], [0, 1]], atol=0.2)
