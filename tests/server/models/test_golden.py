from collections.abc import Callable
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest

from tests.builders.inference import Array
from tests.builders.releases import SCHEMA, build_release, save_golden
from vireo.ops.cli.release.verification import ARCHITECTURE_NOISE
from vireo.server.models.model import GoldenMismatchError, Model, replay
from vireo.server.models.signature import ranker_signature, tower_signature
from vireo.server.releases import layout
from vireo.server.releases.manifest import ReleaseError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_release(tmp_path)


def ranker(folder: Path) -> Model:
    return Model(folder / layout.RANKER, ranker_signature(SCHEMA))


def tower(folder: Path) -> Model:
    return Model(folder / layout.VIEWER_TOWER, tower_signature(SCHEMA))


def tampered(folder: Path, name: str, change: float, *, widen: bool = False) -> Path:
    """Write the ranker's goldens with `change` added to one value of one array."""
    path = folder / layout.GOLDEN_RANKER
    with np.load(path) as arrays:
        parts = {key: arrays[key].copy() for key in arrays.files}
    parts[name].flat[-1] += change
    if widen:
        parts[name] = np.concatenate([parts[name], parts[name]], axis=1)
    inputs = {key[6:]: value for key, value in parts.items() if key.startswith("input/")}
    outputs = {key[7:]: value for key, value in parts.items() if key.startswith("output/")}
    save_golden(path, inputs, outputs)
    return path


def test_requests_are_replayed_one_by_one_as_most_are_served(folder: Path) -> None:
    inputs = {"history": np.arange(6).reshape(3, 2), "lengths": np.arange(3)}
    scores = np.full((3, 1, 2), 0.5, np.float32)
    save_golden(folder / layout.GOLDEN_RANKER, inputs, {"scores": scores})
    model = create_autospec(Model, output="scores", probabilities=True)
    model.run.return_value = scores[:1]
    replay(model, folder / layout.GOLDEN_RANKER)
    asked = [call.args[0] for call in model.run.call_args_list]
    assert [each["history"].tolist() for each in asked] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert [each["lengths"].tolist() for each in asked] == [[0], [1], [2]]


def test_models_that_answer_as_recorded_within_the_tolerance_pass(folder: Path) -> None:
    replay(tower(folder), folder / layout.GOLDEN_VIEWER_TOWER)
    replay(ranker(folder), tampered(folder, "output/scores", layout.GOLDEN_TOLERANCE / 2))


def scores(folder: Path, shape: tuple[int, ...], **inputs: Array) -> None:
    """Goldens with these inputs and zeros as scores."""
    save_golden(folder / layout.GOLDEN_RANKER, inputs, {"scores": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: tampered(folder, "output/scores", layout.GOLDEN_TOLERANCE * 2),
            r"differs from the recorded outputs by 0\.0002",
        ),
        (lambda folder: tampered(folder, "output/scores", np.nan), "differs"),
        (
            lambda folder: tampered(folder, "input/candidate_features", np.nan),
            "replay failed: ranker gave a value that isn't finite",
        ),
        (lambda folder: tampered(folder, "output/scores", 0, widen=True), "recorded"),
        (lambda folder: scores(folder, (0, 0, 2)), "has no golden requests"),
        (lambda folder: scores(folder, (1, 1, 2)), "replay failed: 'candidate_vectors'"),
        (
            lambda folder: scores(
                folder, (1, 1, 2), candidate_vectors=np.zeros((1, 1), np.float32)
            ),
            "replay failed",
        ),
        (
            lambda folder: (folder / layout.GOLDEN_RANKER).write_bytes(b"not a zip"),
            "can't be read as golden requests",
        ),
    ],
)
def test_goldens_that_arent_reproduced_are_refused(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(ReleaseError, match=message):
        replay(ranker(folder), folder / layout.GOLDEN_RANKER)


@pytest.mark.parametrize(
    ("recorded", "given", "excused"),
    [
        (0.003, 0.006, False),
        (0.003, 0.0015, False),
        (0.5, 0.504, True),
        (0.5, 0.51, False),
        (0.0, 2e-4, False),
    ],
)
def test_another_processor_explains_a_share_of_a_probability(
    folder: Path, recorded: float, given: float, excused: bool
) -> None:
    save_golden(folder / layout.GOLDEN_RANKER, {}, {"scores": np.full((1, 1, 2), recorded)})
    model = create_autospec(Model, output="scores", probabilities=True)
    model.run.return_value = np.full((1, 1, 2), given)
    with pytest.raises(GoldenMismatchError) as raised:
        replay(model, folder / layout.GOLDEN_RANKER)
    assert (raised.value.difference <= ARCHITECTURE_NOISE) == excused
