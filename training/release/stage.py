"""Staging of a release: retrieval, then the ranker, then the manifest.

Goldens are requests of a few real viewers with PyTorch's outputs, which every pod replays.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from vireo.server.arrays import Float32Array, Int64Array
from vireo.server.features.content import CONTENT_LIMIT
from vireo.server.features.keys import video_keys
from vireo.server.features.model_inputs import RANKER_HISTORY
from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.catalogue.placement import Placement
from vireo.server.recommend.ranking.pipeline import model_inputs, requested
from vireo.server.recommend.ranking.release import Ranking, RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases import layout
from vireo.server.releases.manifest import (
    DATA_END,
    FeatureSchema,
    Manifest,
    Quotas,
    ScoreWeights,
    describe_files,
)
from vireo.server.releases.tables import write_texts
from vireo.server.signals import OUTCOMES
from vireo.training.data.context import video_languages
from vireo.training.data.dataset import Dataset
from vireo.training.data.folder import replaced_folder
from vireo.training.data.schema import attribute_column
from vireo.training.evaluation.chain import ranking_query
from vireo.training.features.statistics import latest
from vireo.training.features.watches import Split
from vireo.training.onnx_export import write_triton_config
from vireo.training.ranking.model import Ranker
from vireo.training.ranking.served import export_ranker, torch_scores
from vireo.training.release.tables import EXACT_LIMIT, build_index, write_attributes
from vireo.training.retrieval.data import RetrievalData
from vireo.training.retrieval.export import ContentTower, export_video_tower, export_viewer_tower
from vireo.training.retrieval.model import TwoTower, readable, viewer_vectors
from vireo.training.retrieval.neighbours import co_watch_neighbours, co_watch_table, ease_table
from vireo.training.retrieval.validation import viewer_queries

FRESH_DAYS = 30
"""Days after publication during which a video is new."""
FRESH_WATCHES = 10
"""A video with fewer watches is rarely watched."""
FRESH_LIMIT = 2000
"""Maximum number of fresh videos; scoring all of them costs little."""

POPULAR_LIMIT = 1000
GOLDEN_VIEWERS = 8
GOLDEN_CANDIDATES = 32
GOLDEN_VIDEOS = 64
DRAFT = "draft"
"""Release id of an unfinished release."""

Arrays = Mapping[str, npt.NDArray[Any]]
Answer = Callable[[dict[str, npt.NDArray[Any]]], npt.NDArray[np.float32]]
"""Computes a ranker's outputs, float32[b, n, 2], from its inputs."""


def fresh_rows(data: RetrievalData, videos: pd.DataFrame) -> Int64Array:
    """Return the rows of the fresh videos, freshest first, at most FRESH_LIMIT.

    New videos come first: published at most FRESH_DAYS before the last watch, newest first. Then
    rarely watched ones: under FRESH_WATCHES watches in the train part, sorted by watches, then
    newest first, undated last. Ties are broken by key. `videos` is the catalogue in row order.
    """
    watches = data.watch_counts
    published = videos["published"].to_numpy("datetime64[s]")
    dated = ~np.isnat(published)
    # Seconds; an undated video gets the earliest possible time.
    born = np.where(dated, published.astype(np.int64), np.iinfo(np.int64).min)
    last = int(data.train.times.max(initial=0))
    new = dated & (born >= last - FRESH_DAYS * 86_400)
    rows = np.flatnonzero(new | (watches < FRESH_WATCHES))
    rank = np.where(new, -1, watches)  # new ones come first
    order = np.lexsort((data.keys[rows], -born[rows].astype(np.float64), rank[rows]))
    return rows[order][:FRESH_LIMIT]


def stage_retrieval(
    folder: Path,
    model: TwoTower,
    data: RetrievalData,
    dataset: Dataset,
    repo: Path,
    split: Split,
    quotas: Quotas | None = None,
) -> CandidateRelease:
    """Write everything but the ranker, with a draft manifest, so that candidates can be retrieved.

    Args:
        folder: the staged release; its contents are deleted.
        model: the trained towers.
        data: the towers' training data.
        dataset: source of titles, publication dates and attributes.
        repo: the Feast repository, source of the videos' latest features.
        split: the split of the data set that the towers were trained on.
        quotas: quotas of the candidate sources; the defaults if None.

    Raises:
        ReleaseError: the exported towers' outputs differ from the trained ones'.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / layout.VIDEO_KEYS).parent.mkdir(parents=True)
    ids = list(data.video_ids)
    stored_as = np.float16 if len(ids) > EXACT_LIMIT else np.float32
    export_viewer_tower(model, folder / layout.VIEWER_TOWER, stored_as)
    vectors = np.load(folder / layout.VIDEO_VECTORS).astype(np.float32)
    write_triton_config(folder / layout.VIEWER_TOWER)
    placing = ContentTower(model, stored_as)
    export_video_tower(placing, folder / layout.VIDEO_TOWER)
    write_triton_config(folder / layout.VIDEO_TOWER)
    index, description = build_index(vectors, viewer_queries(model, data))
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))
    del index
    features, popularity = latest(repo, ids)
    rows, weights = co_watch_table(data, co_watch_neighbours(data.video_count))
    model_rows, model_weights = ease_table(data, limit=model.config.ease_limit)
    content = model.video_tower.content_vectors(model.video_tower.content).detach()
    tables: dict[str, npt.NDArray[Any]] = {
        layout.VIDEO_KEYS: data.keys,
        layout.VIDEO_FEATURE_TABLE: features,
        layout.CO_WATCH_ROWS: rows,
        layout.CO_WATCH_WEIGHTS: weights.astype(stored_as),
        layout.EASE_ROWS: model_rows,
        layout.EASE_WEIGHTS: model_weights,
        layout.FRESH_ROWS: fresh_rows(data, dataset.videos),
        layout.CONTENT_VECTORS: torch.nn.functional.normalize(content).numpy().astype(stored_as),
        layout.CONTENT_IDS: data.content.astype(np.uint16),
        layout.POPULARITY: popularity,
        layout.CREATORS: creator_keys(dataset.videos["creator"]),
    }
    languages = _languages(dataset)
    schema = FeatureSchema.ours(
        model.config.history_limit,
        int(vectors.shape[1]),
        model.context,
        languages=languages is not None,
    )
    if languages is not None and schema.languages:
        tables[layout.LANGUAGES] = languages
    for path, table in tables.items():
        np.save(folder / path, table)
    write_texts(folder / layout.VIDEO_IDS, ids)
    write_texts(folder / layout.VIDEO_TITLES, dataset.videos["title"].fillna(""))
    popular = np.lexsort((data.keys, -popularity))[:POPULAR_LIMIT]
    texts = {
        layout.POPULAR_IDS: [ids[row] for row in popular],
        layout.VOCABULARY: data.vocabulary,
        layout.CONTENT_VOCABULARY: data.content_vocabulary,
    }
    for path, text in texts.items():
        (folder / path).write_text(json.dumps(text, ensure_ascii=False))
    write_attributes(folder, dataset, popular)
    if (dataset.folder / layout.TAKEDOWNS).exists():
        shutil.copy(dataset.folder / layout.TAKEDOWNS, folder / layout.TAKEDOWNS)
    golden = folder / layout.GOLDEN_VIEWER_TOWER
    inputs = data.inputs(golden_viewers(data), model.config.history_limit)
    write_tower_goldens(model, vectors, inputs, golden)
    write_video_goldens(placing, data, folder / layout.GOLDEN_VIDEO_TOWER)
    Manifest(
        release_id=DRAFT,
        created_at=datetime.now(UTC),
        dataset=dataset.info.name,
        code_commit=code_commit(),
        architecture=platform.machine(),
        data_fingerprint=split.data_fingerprint,
        holdout=split.holdout,
        feature_schema=schema,
        quotas=quotas or Quotas(),
        catalog_log_position=dataset.info.log_positions.catalogue,
        index=description,
        score_weights=ScoreWeights(),
        metrics={DATA_END: dataset.info.last.timestamp()},
        files={},
    ).write(folder)
    release = CandidateRelease.load(folder)
    release.replay_goldens()
    Placement.load(folder, release.manifest, len(release.keys)).replay_goldens()
    return release


def _languages(dataset: Dataset) -> npt.NDArray[np.int16] | None:
    """Return the `language_id` of each video, int16[n]; None unless languages are declared."""
    if dataset.info.attributes.get("language") != "labels":
        return None
    column = attribute_column("language")
    labels = dataset.video_columns(column)[column].to_pylist()
    return video_languages(labels).astype(np.int16)


def creator_keys(creators: pd.Series[str]) -> npt.NDArray[np.int64]:
    """Return the key of each video's creator, -1 if unknown, int64[n]."""
    known = (creators.fillna("") != "").to_numpy()
    keys = np.full(len(creators), -1, np.int64)
    keys[known] = video_keys(creators[known].tolist())
    return keys


def stage_ranker(
    staged: CandidateRelease,
    model: Ranker,
    data: RetrievalData,
    weights: ScoreWeights,
    candidate_count: int,
) -> RankingRelease:
    """Add the ranker, its goldens, the task weights and the number of candidates to rank.

    Args:
        staged: the staged retrieval part.
        model: the trained ranker.
        data: the towers' training data.
        weights: weights of the tasks' probabilities in the score.
        candidate_count: length of the lists that the ranker was trained on.

    Raises:
        ReleaseError: the exported ranker's outputs differ from the trained one's.
    """
    export_ranker(model, staged.folder / layout.RANKER)
    write_triton_config(staged.folder / layout.RANKER)
    answer = partial(torch_scores, model)
    return _with_ranker(staged, answer, data, weights, candidate_count, model.schema.tasks)


def take_ranker(staged: CandidateRelease, other: Path, data: RetrievalData) -> RankingRelease:
    """Copy the ranker of another release, with its task weights and number of candidates.

    Args:
        staged: the staged retrieval part.
        other: folder of a release whose vectors share the same space.
        data: the towers' training data.

    Raises:
        ReleaseError: the other release can't be read.
    """
    manifest, config = Manifest.read(other), Path(layout.RANKER_CONFIG)
    shutil.copytree((other / config).parent, (staged.folder / config).parent)
    weights, tasks = manifest.score_weights, manifest.feature_schema.tasks
    return _with_ranker(staged, None, data, weights, manifest.candidates, tasks)


def _with_ranker(
    staged: CandidateRelease,
    answer: Answer | None,
    data: RetrievalData,
    weights: ScoreWeights,
    candidate_count: int,
    tasks: tuple[str, ...],
) -> RankingRelease:
    """Write a staged ranker's goldens, which `answer` or it itself gives, and its settings."""
    folder, draft = staged.folder, staged.manifest
    schema = draft.feature_schema.model_copy(update={"tasks": tasks})
    lacking = {task.name for task in OUTCOMES} - {*tasks}
    weights = ScoreWeights({name: w for name, w in weights.root.items() if name not in lacking})
    settings = {"score_weights": weights, "candidates": candidate_count, "feature_schema": schema}
    draft.model_copy(update=settings).write(folder)
    release = RankingRelease.load(folder)
    inputs = ranker_requests(golden_viewers(data), staged, release)
    scores = (answer or release.ranker.run)(inputs)
    save_golden(folder / layout.GOLDEN_RANKER, inputs, {"scores": scores})
    release.replay_goldens()
    return release


def golden_viewers(data: RetrievalData) -> list[ViewerFeatures]:
    """Return viewers with short to full histories, an unknown one, and one without a profile.

    Their requests come right after their last watch, or up to weeks later.
    """
    lengths = np.diff(data.train.offsets)
    places = np.linspace(0, len(lengths) - 1, min(GOLDEN_VIEWERS, len(lengths))).astype(int)
    chosen = [data.viewer_features(int(viewer)) for viewer in np.argsort(lengths)[places]]
    known = [
        replace(
            viewer,
            watch_count=len(viewer.watched_keys),
            asked_at=int(viewer.history_times.max(initial=0)) + 8**number,
        )
        for number, viewer in enumerate(chosen)
    ]
    return [ViewerFeatures(), replace(known[-1], attributes=(), asked_at=0), *known]


@torch.no_grad()
def write_tower_goldens(model: TwoTower, vectors: Float32Array, inputs: Arrays, path: Path) -> None:
    """Write one batch of inputs of the viewer tower and PyTorch's outputs.

    `vectors` are the release's, float32[n, d].
    """
    model.eval()
    answers = viewer_vectors(model, readable(torch.from_numpy(vectors)), inputs).numpy()
    save_golden(path, inputs, {"viewer_vector": answers})


@torch.no_grad()
def write_video_goldens(tower: ContentTower, data: RetrievalData, path: Path) -> None:
    """Write the content of some videos and of one without any, and PyTorch's vectors of them."""
    chosen = np.linspace(0, data.video_count - 1, min(GOLDEN_VIDEOS, data.video_count)).astype(int)
    empty = np.zeros((1, CONTENT_LIMIT), np.int64)
    content = np.concatenate([data.content[chosen].astype(np.int64), empty])
    vectors = tower(torch.from_numpy(content)).numpy()
    save_golden(path, {"content": content}, {"video_vectors": vectors})


def ranker_requests(
    viewers: Sequence[ViewerFeatures], staged: CandidateRelease, release: RankingRelease
) -> dict[str, npt.NDArray[Any]]:
    """Return a batch of inputs of the ranker: of viewers who have candidates, for some of these.

    Histories are padded on the right.
    """
    pipeline = CandidatePipeline(staged, fail_open=False)
    retrieved = [
        (viewer, pipeline.retrieve(CandidateQuery(viewer=viewer, count=GOLDEN_CANDIDATES)))
        for viewer in viewers
    ]
    # A batch has one width, but in a small catalogue a viewer may have watched nearly everything.
    queries = [
        Ranking.of(release, ranking_query(viewer, found))
        for viewer, found in retrieved
        if len(found.keys)
    ]
    width = np.arange(min(len(query.rows) for query in queries))
    single = [model_inputs(query, requested(query).take(width)) for query in queries]
    for inputs in single:
        history = inputs["history_vectors"]
        missing = RANKER_HISTORY - history.shape[1]
        inputs["history_vectors"] = np.pad(history, ((0, 0), (0, missing), (0, 0)))
    return {name: np.concatenate([inputs[name] for inputs in single]) for name in single[0]}


def save_golden(path: Path, inputs: Arrays, outputs: Arrays) -> None:
    """Write requests and outputs in the format of `vireo.server.releases.layout`."""
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    arrays |= {f"output/{name}": array for name, array in outputs.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def finish_release(folder: Path, target: Path, metrics: Mapping[str, float]) -> Manifest:
    """Describe every file in the manifest, name the release, and move it to `target`.

    An earlier release at `target` is replaced atomically.
    """
    files = describe_files(folder)
    created = datetime.now(UTC).replace(microsecond=0)
    digest = hashlib.sha256(repr(sorted((path, files[path].sha256) for path in files)).encode())
    draft = Manifest.read(folder)
    manifest = draft.model_copy(
        update={
            "release_id": f"{created:%Y%m%d-%H%M%S}-{digest.hexdigest()[:8]}",
            "created_at": created,
            "metrics": {**metrics, **draft.metrics},
            "files": files,
        }
    )
    manifest.write(folder)
    with replaced_folder(target) as place:
        for path in list(folder.iterdir()):  # Moving can't fail on a full disk, unlike copying.
            path.rename(place / path.name)
    folder.rmdir()
    return manifest


def code_commit() -> str:
    """Return this checkout's commit, with "-dirty" if modified; "unknown" without git."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return "unknown"
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() or "unknown"
