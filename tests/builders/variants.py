"""Other releases made from a trained one in moments: the same, or with a worse ranker."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.builders.inference import golden
from tests.builders.releases import described_again, save_golden
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.releases import layout


def changed_copy(release: Path, folder: Path, **fields: object) -> Path:
    """The release in `folder`, which it returns, with other fields of the manifest."""
    shutil.copytree(release, folder)
    return described_again(folder, **fields)


def with_shuffled_ranker(release: Path, folder: Path, release_id: str) -> Path:
    """The release with its ranker's weights shuffled, and goldens that it answers to."""
    shutil.copytree(release, folder)
    path = folder / layout.RANKER
    model = onnx.load(str(path))
    random = np.random.default_rng(0)
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(weights)
            shuffled = random.permutation(values.ravel()).reshape(values.shape)
            weights.CopyFrom(numpy_helper.from_array(shuffled, weights.name))
    onnx.save(model, str(path))
    inputs, _ = golden(folder, layout.GOLDEN_RANKER)
    scores = RankingRelease.load(folder).ranker.run(inputs)
    save_golden(folder / layout.GOLDEN_RANKER, inputs, {"scores": scores})
    return described_again(folder, release_id=release_id)
