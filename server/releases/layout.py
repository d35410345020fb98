"""Where each part lies in a release's folder, and how its tables are read.

Model folders follow Triton's model-repository layout (`<name>/1/model.onnx`).
"""

from __future__ import annotations

VIEWER_TOWER = "viewer_tower/1/model.onnx"
"""Inputs of `tower_inputs` to `viewer_vector` float32[b, d]."""
RANKER = "ranker/1/model.onnx"
"""Inputs of `ranking_inputs` to `scores` float32[b, n, 2]: watch and like probabilities."""

VIDEO_KEYS = "videos/keys.npy"
"""int64[n], the key of each row."""
VIDEO_IDS = "videos/ids.json"
"""List of n ids."""
VIDEO_TITLES = "videos/titles.json"
"""List of n titles."""
VIDEO_VECTORS = "videos/vectors.npy"
"""float32[n, d], output of the video tower."""
VIDEO_FEATURE_TABLE = "videos/features.npy"
"""float32[n, f], VIDEO_FEATURES."""
VIDEO_INDEX = "videos/index.faiss"
"""Inner-product index over the vectors; its ids are rows."""
CO_WATCH_ROWS = "videos/co_watch_rows.npy"
"""int32[n, k]: rows of the videos that follow each video most, -1 where there are fewer."""
CO_WATCH_WEIGHTS = "videos/co_watch_weights.npy"
"""float32[n, k], 0 where the row is -1."""
POPULARITY = "videos/popularity.npy"
"""float32[n], time-decayed watches."""
POPULAR_IDS = "popular.json"
"""Ids of the most popular videos, best first, at most 1,000: the gateway's last resort."""
VOCABULARY = "vocabulary.json"
"""Object: attribute text to id, from 1."""
GOLDEN_VIEWER_TOWER = "golden/viewer_tower.npz"
GOLDEN_RANKER = "golden/ranker.npz"
"""Arrays `input/<name>` and `output/<name>`: requests and what PyTorch answered."""
GOLDEN_TOLERANCE = 1e-4
"""Largest absolute difference from the golden outputs that a pod accepts."""
