"""A manifest that this build can't serve is refused, and the field is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders.releases import build_release
from vireo.server.event_log.position import BEGIN
from vireo.server.releases.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    FeatureSchema,
    Manifest,
    ReleaseError,
)

Document = dict[str, Any]


def another_format(document: Document) -> None:
    # A later format may have other fields too: the error is about the version.
    document.update(format_version=99, something_new=True)
    del document["quotas"], document["files"]


def no_format(document: Document) -> None:
    del document["format_version"]


def another_half_life(document: Document) -> None:
    document["feature_schema"]["constants"]["co_watch.half_life"] = 4.5


def lost_constant(document: Document) -> None:
    del document["feature_schema"]["constants"]["co_watch.history"]


def unknown_constant(document: Document) -> None:
    document["feature_schema"]["constants"]["mood.half_life"] = 1


def another_order(document: Document) -> None:
    document["feature_schema"]["viewer_features"].reverse()


def later_score(document: Document) -> None:
    # Other fields of such a release may go by the name too.
    document["feature_schema"]["retrieval_features"].extend(["mood", "from_mood"])
    document["quotas"]["mood"] = 0.1


def later_task(document: Document) -> None:
    document["feature_schema"]["tasks"].append("share")
    document["score_weights"]["share"] = 1


def lost_score(document: Document) -> None:
    document["feature_schema"]["retrieval_features"].remove("ease")


def lost_task(document: Document) -> None:
    document["feature_schema"]["tasks"].remove("like")


def later_context(document: Document) -> None:
    document["feature_schema"]["context_features"] = {"hour": 25, "mood": 3}


def other_devices(document: Document) -> None:
    document["feature_schema"]["context_features"] = {"device": 9}


def a_match_without_language(document: Document) -> None:
    document["feature_schema"]["match_features"].append("language_match")


def lost_features(document: Document) -> None:
    del document["feature_schema"]["video_features"]


def lost_constants(document: Document) -> None:
    del document["feature_schema"]["constants"]


def lost_metrics(document: Document) -> None:
    del document["metrics"]


def negative_size(document: Document) -> None:
    document["files"]["popular.json"]["size"] = -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            another_format,
            f"format_version is 99, this build serves {FORMAT_VERSION}; train the release again",
        ),
        (no_format, f"format_version is None, this build serves {FORMAT_VERSION}"),
        (
            another_half_life,
            r"feature_schema\.constants\[co_watch\.half_life\] is 4\.5, this build computes "
            r"with 3\.0",
        ),
        (lost_constant, r"constants\[co_watch\.history\] is None, this build computes with 20\b"),
        (unknown_constant, r"constants\[mood\.half_life\] is 1\.0, this build computes with None"),
        (another_order, r"feature_schema\.viewer_features is \['like_rate', .*this build"),
        (
            later_score,
            r"feature_schema\.retrieval_features names mood, from_mood, which this build lacks; "
            "train the release again, or serve it with the build that it was made for",
        ),
        (later_task, r"feature_schema\.tasks names share, which this build lacks; train the"),
        (lost_score, r"feature_schema\.retrieval_features lacks ease, which this build has; train"),
        (lost_task, r"feature_schema\.tasks lacks like, which this build has; train the release"),
        (
            later_context,
            r"feature_schema\.context_features names mood, which this build lacks",
        ),
        (
            other_devices,
            r"context_features\[device\] is 9, this build has 5 ids; train",
        ),
        (a_match_without_language, r"match_features names language_match, which this build lacks"),
        (lost_features, r"manifest field feature_schema\.video_features: Field required"),
        (lost_constants, r"manifest field feature_schema\.constants: Field required"),
        (lost_metrics, "manifest field metrics: Field required"),
        (negative_size, r"manifest field files\.popular\.json\.size: Input should be greater"),
    ],
)
def test_unfit_manifest_is_refused_by_the_field(
    tmp_path: Path, change: Callable[[Document], None], message: str
) -> None:
    path = build_release(tmp_path) / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ReleaseError, match=message):
        Manifest.read(tmp_path)


def test_a_position_in_an_unknown_log_is_read_and_never_written(tmp_path: Path) -> None:
    """The build before wrote it."""
    path = build_release(tmp_path) / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"catalog_position": 42}))
    manifest = Manifest.read(tmp_path)
    assert manifest.catalog_log_position == BEGIN
    assert "catalog_position" not in json.loads(manifest.model_dump_json())


def test_a_release_says_which_context_its_models_read(tmp_path: Path) -> None:
    path = build_release(tmp_path) / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    assert "context_features" not in document["feature_schema"]
    assert not Manifest.read(tmp_path).feature_schema.context_features
    known = FeatureSchema.ours(9, 8, ("hour", "language"), languages=True)
    document["feature_schema"] = known.model_dump(mode="json")
    path.write_text(json.dumps(document))

    found = Manifest.read(tmp_path).feature_schema

    assert found.context_features == {"hour": 25, "language": 677}
    assert found.match_features == ("content_match", "language_match")


def test_text_that_is_no_manifest_is_refused() -> None:
    for text in (b"", b"\xff", b"[]"):
        with pytest.raises(ReleaseError, match=r"here: .*(isn't a manifest|format_version)"):
            Manifest.parse(text, "here")
