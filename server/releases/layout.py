"""Paths of each part in a release's folder, and how its tables are read.

Model folders follow Triton's model-repository layout: `<name>/config.pbtxt` describes
`<name>/1/model.onnx`. Pods don't read the configs; a Triton that serves the folder does.
"""

from __future__ import annotations

VIEWER_TOWER = "viewer_tower/1/model.onnx"
"""Inputs of `tower_inputs` to `viewer_vector` float32[b, d]; VIDEO_VECTORS are outside of it."""
RANKER = "ranker/1/model.onnx"
"""Inputs of `ranking_inputs` to `scores` float32[b, n, t]: a probability of each of
`signals.TASKS`."""
VIDEO_TOWER = "video_tower/1/model.onnx"
"""`content` int64[b, CONTENT_LIMIT], token ids, 0-padded, to `video_vectors` float32[b, 2d]: the
vector of an unwatched video of this content, and its content vector; 0 without content."""
VIEWER_TOWER_CONFIG = "viewer_tower/config.pbtxt"
VIDEO_TOWER_CONFIG = "video_tower/config.pbtxt"
RANKER_CONFIG = "ranker/config.pbtxt"

VIDEO_KEYS = "videos/keys.npy"
"""int64[n], the key of each row."""
VIDEO_IDS = "videos/ids.bin"
"""Ids of n videos; see `vireo.server.releases.tables`."""
VIDEO_TITLES = "videos/titles.bin"
"""Titles of n videos; see `vireo.server.releases.tables`."""
VIDEO_VECTORS = "viewer_tower/1/vectors.npy"
"""float32[n, d], or float16[n, d] in a large catalogue: output of the video tower. It lies beside
the viewer tower, which looks the history up in it: ONNX Runtime reads no file outside of a
model's folder."""
VIDEO_FEATURE_TABLE = "videos/features.npy"
"""float32[n, f], VIDEO_FEATURES."""
VIDEO_INDEX = "videos/index.faiss"
"""Inner-product index over the vectors; its ids are rows."""
CO_WATCH_ROWS = "videos/co_watch_rows.npy"
"""int32[n, k]: rows of the videos that follow each video most, -1 if there are fewer."""
CO_WATCH_WEIGHTS = "videos/co_watch_weights.npy"
"""float32[n, k], or float16[n, k] in a large catalogue, 0 if the row is -1."""
EASE_ROWS = "videos/ease_rows.npy"
"""int32[n, k]: rows of the videos that each video speaks for or against most by EASE."""
EASE_WEIGHTS = "videos/ease_weights.npy"
"""float32[n, k], signed strength of those, 0 for padding."""
FRESH_ROWS = "videos/fresh_rows.npy"
"""int64[m]: rows of new and rarely watched videos, at most 2,000, the freshest first."""
CONTENT_VECTORS = "videos/content_vectors.npy"
"""float32[n, c], or float16[n, c] in a large catalogue: the video tower's content part alone,
with norm 1, or 0 if nothing is known."""
CONTENT_IDS = "videos/content_ids.npy"
"""uint16[n, CONTENT_LIMIT]: content tokens of each video, 0-padded, to know a changed one by."""
CREATORS = "videos/creators.npy"
"""int64[n]: the key of each video's creator, -1 if unknown."""
LANGUAGES = "videos/languages.npy"
"""int16[n]: `language_id` of each video's first label of `language`, 0 if unknown; only if the
ranker reads whether it is the request's."""
ATTRIBUTES = "attributes.json"
"""Object: "labels" and "numbers", the sorted names of the attributes that videos have."""
LABELS = "videos/labels.bin"
"""Texts "attribute=value" of v labels, sorted by their bytes; see
`vireo.server.releases.tables`."""
LABEL_OFFSETS = "videos/label_offsets.npy"
"""int64[v + 1]: where the rows of each label begin in LABEL_ROWS."""
LABEL_ROWS = "videos/label_rows.npy"
"""int32[t]: rows of the videos that have each label, ascending."""
NUMBERS = "videos/numbers.npy"
"""float64[n, k]: numbers of each video, in the order of "numbers"; NaN if unknown."""
POPULAR_ATTRIBUTES = "popular_attributes.json"
"""List as long as POPULAR_IDS: {"labels": ["attribute=value", …], "numbers": {name: number}} of
each of these videos, for the gateway's last resort."""
POPULARITY = "videos/popularity.npy"
"""float32[n], time-decayed watches."""
POPULAR_IDS = "popular.json"
"""Ids of the most popular videos, best first, at most 1,000: the gateway's last resort."""
VOCABULARY = "vocabulary.json"
"""Object: attribute text to id, from 1."""
CONTENT_VOCABULARY = "content_vocabulary.json"
"""Object: content token to id, from 1; see `vireo.server.features.content`."""
TAKEDOWNS = "takedowns.npz"
"""Takedowns that the data set has, as `Takedowns.write` makes it; only if it is made from the
log."""
MEASURED = "measured"
"""Folder of the measured twin, a release of its own that pods don't fetch; see the manifest."""
GOLDEN_VIEWER_TOWER = "golden/viewer_tower.npz"
GOLDEN_VIDEO_TOWER = "golden/video_tower.npz"
GOLDEN_RANKER = "golden/ranker.npz"
"""Arrays `input/<name>` and `output/<name>`: requests and PyTorch's outputs for them."""
GOLDEN_TOLERANCE = 1e-4
"""Maximum absolute difference from the golden outputs that a pod accepts."""

ATTRIBUTE_TABLES = (ATTRIBUTES, LABELS, LABEL_OFFSETS, LABEL_ROWS, NUMBERS)
"""What pods filter videos by."""
OPTIONAL = frozenset({LANGUAGES, TAKEDOWNS})
"""Files that pods do without: data may have no languages, and imported data lack takedowns."""
