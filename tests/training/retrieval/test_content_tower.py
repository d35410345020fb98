from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from vireo.server.features.content import CONTENT_LIMIT
from vireo.training.onnx_export import ExportError
from vireo.training.retrieval import content_tower as module
from vireo.training.retrieval import unseen
from vireo.training.retrieval.config import RetrievalConfig
from vireo.training.retrieval.content_tower import content_tower, export_video_tower
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.model import TwoTower
from vireo.training.retrieval.unseen import fill_unseen

pytestmark = pytest.mark.slow

UNSEEN = ["new-cat", "new-dog", "new-nothing"]


@pytest.fixture(scope="module")
def data() -> RetrievalData:
    """Half of the viewers watch videos of cats, half of dogs; three videos are unseen."""
    known = [f"{kind}-{number}" for number in range(20) for kind in ("cat", "dog")]
    walks = {
        f"viewer-{viewer:02}": known[viewer % 2 :: 2][viewer % 5 : viewer % 5 + 9]
        for viewer in range(60)
    }
    ids = [*known, *UNSEEN]
    tags = [
        [] if "nothing" in name else ["cat" if "cat" in name else "dog", name[-1]] for name in ids
    ]
    return RetrievalData.build(watches_frame(walks), videos_frame(ids, tags), viewers_frame({}))


@pytest.fixture(scope="module")
def towers(data: RetrievalData, small: RetrievalConfig) -> TwoTower:
    torch.manual_seed(2)
    model = TwoTower(data, small).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.video_tower.token_embedding.weight[0] = 0
    with pytest.MonkeyPatch.context() as patch:
        # So few places that unseen videos need a step towards the viewers.
        patch.setattr(unseen, "PLACES", 2)
        patch.setattr(unseen, "EXPOSURE", 20)
        patch.setattr(unseen, "MAX_SHARE", 0.9)
        fill_unseen(model, data)
    return model


def test_unseen_videos_get_the_vectors_that_training_gives_them(
    data: RetrievalData, towers: TwoTower, tmp_path: Path
) -> None:
    path = tmp_path / "video_tower" / "1" / "model.onnx"
    export_video_tower(content_tower(towers), path)
    rows = [data.video_ids.index(name) for name in UNSEEN]
    inputs = {"content": data.content[rows].astype(np.int64)}
    found = np.asarray(onnxruntime.InferenceSession(path).run(["video_vectors"], inputs)[0])

    vectors, content = np.split(found, 2, axis=1)
    with torch.no_grad():
        wanted = towers.video_vectors().numpy()[rows]
        parts = torch.nn.functional.normalize(towers.content_vectors()).numpy()[rows]
    assert vectors == pytest.approx(wanted, abs=1e-5)
    assert content == pytest.approx(parts, abs=1e-5)
    assert not found[2].any()
    assert towers.video_tower.unseen_step.any()


def test_a_catalogue_that_was_watched_whole_has_a_tower_too(
    ring: RetrievalData, small: RetrievalConfig, tmp_path: Path
) -> None:
    model = TwoTower(ring, small).eval()
    fill_unseen(model, ring)
    tower = content_tower(model, np.float16)
    export_video_tower(tower, tmp_path / "model.onnx")
    one = torch.zeros((1, CONTENT_LIMIT), dtype=torch.int64)
    one[0, 0] = 1
    assert tower(one).any()


def test_an_export_that_differs_is_refused(
    towers: TwoTower,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(module, "video_outputs", lambda _, content: np.ones((len(content), 64)))
    with pytest.raises(ExportError):
        export_video_tower(content_tower(towers), path)
    assert not path.exists()
