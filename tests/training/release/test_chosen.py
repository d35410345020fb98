"""Precision is chosen for real exports, and what is served answers its own goldens."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from server.candidate.pipeline import CandidatePipeline, CandidateQuery
from server.candidate.release import CandidateRelease
from server.features.tower_inputs import ATTRIBUTE_LIMIT
from server.home import Home
from server.inference.golden import GoldenMismatchError
from server.ranking.release import RankingRelease
from server.releases import layout
from server.releases.manifest import Manifest, Quotas, ScoreWeights
from server.releases.precision import ModelPrecision, Precisions
from training.data.dataset import load_dataset
from training.ranking.config import RankingConfig
from training.ranking.model import Ranker
from training.ranking.training_set import RankingSet, build_ranking_set
from training.release.chosen import choose_ranker, choose_tower
from training.release.precision import Bounds
from training.release.stage import Origin, stage_ranker, stage_retrieval
from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData
from training.retrieval.model import TwoTower
from training.retrieval.sequences import SequenceFile
from training.run import Run

WIDTH = 32
# The time isn't judged, and the small data set has few viewers.
LISTS_ALONE = Bounds(viewers=10, time=1e6)
CONFIG = RankingConfig(candidates=20, hidden=WIDTH)


@pytest.fixture(scope="module")
def data(trained_home: Home) -> RetrievalData:
    dataset = load_dataset(trained_home, "trained")
    sequences = SequenceFile(Run(trained_home.run("trained")).sequences)
    return RetrievalData.open(sequences, dataset.videos, dataset.viewers)


@pytest.fixture(scope="module")
def staged(
    trained_home: Home, data: RetrievalData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A release of towers wide enough for int8, without a ranker, in float32."""
    torch.manual_seed(3)
    model = TwoTower(data, RetrievalConfig(dimension=WIDTH, blocks=1))
    folder = tmp_path_factory.mktemp("staged") / "release"
    dataset, repo = load_dataset(trained_home, "trained"), trained_home.features("trained")
    origin = Origin("trained", dataset.fingerprint, "last")
    stage_retrieval(folder, model, data, dataset, repo, origin, Quotas(), "float32")
    return folder


@pytest.fixture
def folder(staged: Path, tmp_path: Path) -> Path:
    shutil.copytree(staged, tmp_path / "release")
    return tmp_path / "release"


@pytest.fixture(scope="module")
def ranking_set(trained_home: Home, trained_watches: pd.DataFrame, staged: Path) -> RankingSet:
    repo, release = trained_home.features("trained"), CandidateRelease.load(staged)
    return build_ranking_set(trained_watches, repo, release, CONFIG)


def ranker(data: RetrievalData) -> Ranker:
    """It orders by its hidden layers alone, which are wide enough for int8."""
    torch.manual_seed(4)
    model = Ranker(CONFIG, WIDTH, len(data.vocabulary)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        model.watch_linear.weight.zero_()
    return model


def with_a_loud_unit(model: Ranker) -> Ranker:
    """A unit that nothing reads, so large that beside it all others round to 0."""
    with torch.no_grad():
        model.viewer_layer.bias[0] = 1e5
        model.watch_hidden.weight[:, 0] = 0
        model.like_hidden.weight[:, 0] = 0
    return model


def is_int8(path: Path) -> bool:
    graph = onnx.load(str(path), load_external_data=False).graph
    return any(node.op_type == "MatMulInteger" for node in graph.node)


def staged_ranker(
    folder: Path, model: Ranker, data: RetrievalData, ranking_set: RankingSet
) -> RankingRelease:
    weights = ScoreWeights(diversity=0.1)
    return stage_ranker(folder, model, data, ranking_set, weights, "float32")


def golden_outputs(path: Path, name: str) -> np.ndarray:
    with np.load(path) as golden:
        outputs: np.ndarray = golden[f"output/{name}"]
    return outputs


def test_a_tower_that_int8_does_no_harm_is_served_in_int8(
    folder: Path, data: RetrievalData
) -> None:
    before = golden_outputs(folder / layout.GOLDEN_VIEWER_TOWER, "viewer_vector")

    release = choose_tower(folder, data, "auto", LISTS_ALONE)

    precision = Manifest.read(folder).precision.viewer_tower
    assert precision == release.manifest.precision.viewer_tower
    assert precision.chosen == "int8"
    assert set(precision.measures) == {"milliseconds", "overlap_10", "ndcg_10", "overlap", "recall"}
    assert precision.viewers == len(data.validation)
    assert is_int8(folder / layout.VIEWER_TOWER)
    assert not list(folder.rglob("int8.onnx")), "the variant has taken the model's place"
    release.replay_goldens()
    after = golden_outputs(folder / layout.GOLDEN_VIEWER_TOWER, "viewer_vector")
    moved = np.abs(after - before).max()
    assert moved > layout.GOLDEN_TOLERANCE, "the goldens are int8's own"
    assert precision.golden_tolerance == pytest.approx(moved)


def test_what_an_int8_tower_retrieves_is_scored_by_its_own_vector(
    folder: Path, data: RetrievalData
) -> None:
    release = choose_tower(folder, data, "int8")
    viewer = data.validation[0].viewer

    found = CandidatePipeline(release, fail_open=False).retrieve(CandidateQuery(viewer, 10))

    exact = release.vectors[found.rows] @ release.viewer_vector(viewer)
    assert np.allclose(found.two_tower, exact, atol=1e-5)


def test_a_ranker_that_int8_does_no_harm_is_served_in_int8(
    folder: Path, data: RetrievalData, ranking_set: RankingSet
) -> None:
    staged_ranker(folder, ranker(data), data, ranking_set)

    release = choose_ranker(folder, ranking_set, "auto", LISTS_ALONE)

    precision = Manifest.read(folder).precision.ranker
    assert (precision.chosen, precision.why[:24]) == ("int8", "it ranks as float32 does")
    assert set(precision.measures) == {
        "milliseconds",
        "overlap_10",
        "ndcg_10",
        "watch_calibration_error",
        "like_calibration_error",
    }
    assert is_int8(folder / layout.RANKER)
    release.replay_goldens()


def test_a_ranker_whose_order_int8_loses_stays_in_float32(
    folder: Path, data: RetrievalData, ranking_set: RankingSet
) -> None:
    staged_ranker(folder, with_a_loud_unit(ranker(data)), data, ranking_set)
    model, golden = ((folder / path).read_bytes() for path in (layout.RANKER, layout.GOLDEN_RANKER))

    release = choose_ranker(folder, ranking_set, "auto", LISTS_ALONE)

    precision = release.manifest.precision.ranker
    assert precision.chosen == "float32"
    assert "overlap_10 is worse by" in precision.why
    assert precision.golden_tolerance == layout.GOLDEN_TOLERANCE
    assert (folder / layout.RANKER).read_bytes() == model
    assert (folder / layout.GOLDEN_RANKER).read_bytes() == golden
    assert not list(folder.rglob("int8.onnx"))
    release.replay_goldens()


def test_lists_of_a_model_that_is_not_fast_enough_are_not_compared(
    folder: Path, data: RetrievalData, ranking_set: RankingSet
) -> None:
    staged_ranker(folder, ranker(data), data, ranking_set)
    never = Bounds(viewers=10, time=-1.0)

    towers = choose_tower(folder, data, "auto", never).manifest.precision
    rankers = choose_ranker(folder, ranking_set, "auto", never).manifest.precision

    for precision in (towers.viewer_tower, rankers.ranker):
        assert precision.chosen == "float32"
        assert set(precision.measures) == {"milliseconds"}
        assert precision.why.endswith("of the time, and 0.00 is worth it")
    assert rankers.viewer_tower == towers.viewer_tower, "one model's choice leaves the other's"


def test_a_tower_without_a_wide_matrix_is_not_tried(
    trained_home: Home, data: RetrievalData, tmp_path: Path
) -> None:
    shutil.copytree(trained_home.staged_release("trained"), tmp_path / "release")

    release = choose_tower(tmp_path / "release", data, "auto", LISTS_ALONE)

    why = "no matrix is large enough to gain by int8"
    assert release.manifest.precision.viewer_tower == ModelPrecision(why=why)


def test_a_pod_accepts_goldens_within_the_tolerance_of_the_manifest(
    folder: Path, data: RetrievalData
) -> None:
    release = choose_tower(folder, data, "int8")
    golden = folder / layout.GOLDEN_VIEWER_TOWER
    with np.load(golden) as file:
        arrays = {name: file[name] for name in file.files}
    tolerance = release.manifest.precision.viewer_tower.golden_tolerance
    arrays["output/viewer_vector"][0, 0] += 0.9 * tolerance
    with golden.open("wb") as opened:
        np.savez(opened, **arrays)

    CandidateRelease.load(folder).replay_goldens()

    strict = release.manifest.model_copy(update={"precision": Precisions()})
    with pytest.raises(GoldenMismatchError, match=r"more than 0\.0001"):
        replace(release, manifest=strict).replay_goldens()


def test_viewers_without_history_or_profile_are_answered_in_int8(
    folder: Path, data: RetrievalData
) -> None:
    release = choose_tower(folder, data, "int8")

    inputs = {
        "history": np.zeros((1, 1), np.int64),
        "gaps": np.zeros((1, 1), np.int64),
        "lengths": np.zeros(1, np.int64),
        "attributes": np.zeros((1, ATTRIBUTE_LIMIT), np.int64),
    }
    assert np.isfinite(release.tower.run(inputs)).all()
