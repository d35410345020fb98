"""Whatever a manifest or a channel holds, it is read, or refused by the field, and nothing else."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders.releases import build_release
from tests.builders.spoilt import spoilt
from vireo.server.errors import VireoError
from vireo.server.event_log.log import BEGIN
from vireo.server.releases.bucket import StoreError
from vireo.server.releases.channels import HISTORY, ChannelPointer
from vireo.server.releases.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MAX_DOCUMENT_BYTES,
    FeatureSchema,
    Manifest,
    ReleaseError,
    ScoreWeights,
)

Document = dict[str, Any]
Place = tuple[str, ...]
GONE = object()
"""In place of a value: the field is missing."""
FILE = {"size": 1, "sha256": "0" * 64}
BEST = {"held_out": "0" * 64, "figures": {"ndcg_10": 0.1}}


def of(place: Place, *values: Any) -> list[tuple[Place, Any]]:
    return [(place, value) for value in values]


UNFIT = [
    *of(("release_id",), "", "../up", "a/b", ".hidden", "x" * 129, "a\n", 7),
    *of(("dataset",), "", "../../etc", "/etc", "a/b", ".", "A", "x" * 65),
    *of(("created_at",), "", "soon", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", 1e300, None),
    *of(("created_at",), "2024-01-01T00:00:00", -1),
    *of(("code_commit",), "a\nb"),
    *of(("architecture",), "x" * 129),
    *of(("data_fingerprint",), "\x00"),
    *of(("holdout",), "first"),
    *of(("feature_schema", "history_limit"), 0, -1, 10**400, 1.5, "many"),
    *of(("feature_schema", "vector_size"), 0, -1, 1 << 40, None),
    *of(("feature_schema", "video_features"), ["f"] * 300, "abc"),
    *of(("feature_schema", "constants"), {str(number): 1 for number in range(300)}),
    *of(("feature_schema", "constants", "co_watch.history"), 10**400),
    *of(("quotas", "ease"), -0.1, 1.1, "x", None),
    *of(("candidates",), 0, 2001, 1.5, None),
    *of(("score_weights", "watch"), -1, 1e6, 10**400, "x", None, []),
    *of(("score_weights", "like"), -0.5, 101),
    *of(("score_weights", "diversity"), -1, 1e30),
    *of(("score_weights", "fatigue"), -1, 1e30),
    *of(("index", "kind"), "guess"),
    *of(("index", "probes"), -1, 10**30, 1.5),
    *of(("index", "recall"), -0.1, 1.1),
    *of(("metrics",), GONE),
    *of(("metrics", "chain.ndcg_10"), "much"),
    *of(("metrics",), {str(number): 1 for number in range(1001)}),
    *of(("metrics", "x" * 200), 1),
    *of(("files", "popular.json", "size"), 1 << 54),
    *of(("files", "popular.json", "sha256"), "", "0" * 63, "G" * 64, None),
    *of(("files",), {f"f{number}": FILE for number in range(1001)}),
    *(
        (("files", path), FILE)
        for path in ("", "/etc/passwd", "../up", "a/../../up", "a//b", "a/", "./a", "a\\b", "a\nb")
    ),
    *of(("files", MANIFEST_NAME), FILE),
    *of(("files", "videos"), FILE),
    *of(("files", "popular.json/x"), FILE),
    *of(("something_new",), 1),
]


UNFIT_CHANNEL = [
    *of(("release_id",), "", "../up", "a/b", "x" * 129, None, 7),
    *of(("updated_at",), "soon", "0001-01-01T00:00:00Z", "2024-01-01T00:00:00", 1e300),
    *of(("updated_by",), "x" * 257, 7),
    *of(("reason",), "x" * 20_000, None),
    *of(("revision",), -1, 10**9, 1.5, "many"),
    *of(("share",), -0.1, 1.1, "much"),
    *of(("action",), "explode"),
    *of(("previous",), "../up"),
    *of(("returns_to",), -1, 10**30),
    *of(("findings",), ["x"] * 17, ["x" * 5000], "worse"),
    *of(("best_figures",), None, BEST, [BEST] * 9, [BEST | {"held_out": "0" * 63}]),
    *of(("best_figures",), [BEST | {"figures": {str(number): 1 for number in range(65)}}]),
    *of(("best_figures",), *([BEST | {"figures": each}] for each in ({"x" * 129: 1}, {"x": "1e"}))),
]


@cache
def _manifest_text() -> bytes:
    with TemporaryDirectory() as folder:
        return (build_release(Path(folder)) / MANIFEST_NAME).read_bytes()


def manifest() -> Document:
    """A sound one."""
    document: Document = json.loads(_manifest_text())
    return document


def changed(document: Document, place: Place, value: Any) -> Document:
    part = document
    for name in place[:-1]:
        part = part[name]
    if value is GONE:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return document


def channel() -> Document:
    """A sound one."""
    pointer = {"release_id": "r", "updated_at": "2024-01-01T00:00:00Z", "updated_by": "ada"}
    more = {"revision": 1, "share": 0.5, "previous": "q", "returns_to": 0, "findings": ["worse"]}
    return pointer | more | {"best_figures": [BEST]}


@dataclass(frozen=True)
class Kind:
    """A kind of document, and how it is read or refused."""

    sound: Callable[[], Document]
    parse: Callable[[bytes, str], object]
    refusal: type[VireoError]


MANIFEST = Kind(manifest, Manifest.parse, ReleaseError)
CHANNEL = Kind(channel, ChannelPointer.parse, StoreError)


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [*((MANIFEST, *each) for each in UNFIT), *((CHANNEL, *each) for each in UNFIT_CHANNEL)],
)
def test_a_document_with_an_unfit_field_is_refused_by_the_field(
    kind: Kind, place: Place, value: Any
) -> None:
    text = json.dumps(changed(kind.sound(), place, value)).encode()
    with pytest.raises(kind.refusal) as refusal:
        kind.parse(text, "here")
    assert place[0] in str(refusal.value)
    assert len(str(refusal.value)) < 500
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(number: str) -> None:
    for place in (
        ("score_weights", "watch"),
        ("quotas", "fresh"),
        ("feature_schema", "constants", "co_watch.history"),
        ("metrics", "chain.ndcg_10"),
        ("created_at",),
    ):
        text = json.dumps(changed(manifest(), place, "@")).replace('"@"', number)
        with pytest.raises(ReleaseError):
            Manifest.parse(text.encode(), "here")


def test_a_manifest_that_cannot_be_read_is_refused_and_only_so_much_of_it_is_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder" / MANIFEST_NAME).mkdir(parents=True)
    with pytest.raises(ReleaseError, match="can't be read"):
        Manifest.read(tmp_path / "folder")
    with (tmp_path / MANIFEST_NAME).open("wb") as file:
        file.truncate(1 << 40)  # sparse: to read it all would take a terabyte
    with pytest.raises(ReleaseError, match="has more than 1,048,576 bytes"):
        Manifest.read(tmp_path)


def test_the_largest_values_that_are_allowed_are_read_and_written_again(tmp_path: Path) -> None:
    document = manifest()
    document["score_weights"] = {"watch": 0, "like": 100, "diversity": 100, "fatigue": 100}
    document["files"] = {f"f{number}/a-b_c.d": FILE for number in range(1000)}
    document["metrics"] = {str(number): -1e308 for number in range(1000)}
    read = Manifest.parse(json.dumps(document).encode(), "here")
    read.write(tmp_path)
    assert Manifest.read(tmp_path) == read


def test_fatigue_is_stated_only_if_there_is_any_since_earlier_builds_do_not_know_it() -> None:
    weights = ScoreWeights({"watch": 1.0}).with_diversity(0.5)
    assert weights.fatigue == 0
    assert "fatigue" not in weights.model_dump()
    tired = ScoreWeights({**weights.root, "fatigue": 0.7})
    assert (tired.fatigue, tired.diversity) == (0.7, 0.5)
    assert ScoreWeights.model_validate(tired.model_dump()) == tired


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b" " * (MAX_DOCUMENT_BYTES + 1)],
    ids=lambda text: f"{len(text)} of {text[:2]}",
)
@pytest.mark.parametrize(
    ("kind", "place", "reason"),
    [
        (MANIFEST, "here", "isn't a manifest|format_version is None"),
        (CHANNEL, "channels/production.json", "isn't a channel; remove it, and set it again"),
        (CHANNEL, f"{HISTORY}production/1.json", "isn't a record of a channel's change; remove it"),
    ],
)
def test_what_is_no_such_document_is_refused_with_the_reason(
    kind: Kind, place: str, reason: str, text: bytes
) -> None:
    with pytest.raises(kind.refusal, match=reason) as refusal:
        kind.parse(text, place)
    assert len(str(refusal.value)) < 400


def test_what_a_newer_build_says_of_a_channel_is_ignored() -> None:
    newer = json.dumps(channel() | {"mood": "good"}).encode()
    assert ChannelPointer.parse(newer, "here").best_figures


@settings(deadline=None, max_examples=300)
@given(st.data())
@pytest.mark.parametrize("kind", [MANIFEST, CHANNEL])
def test_any_document_is_read_or_refused(kind: Kind, data: st.DataObject) -> None:
    message = ""
    try:
        kind.parse(data.draw(spoilt(kind.sound())), "here")
    except kind.refusal as error:  # anything else fails the test
        message = str(error)
    assert message.isprintable()
    assert len(message) < 20_000


def of_schema(name: str) -> list[str]:
    """A list of the feature schema."""
    found: list[str] = manifest()["feature_schema"][name]
    return found


def without(name: str, each: str) -> list[str]:
    return [kept for kept in of_schema(name) if kept != each]


OTHER_SCHEMAS = [
    (("constants", "co_watch.half_life"), 4.5, r"is 4\.5, this build has 3\.0"),
    (("constants", "co_watch.history"), GONE, r"is None, this build has 20\b"),
    (("constants", "mood.half_life"), 1, r"is 1\.0, this build has None"),
    (("viewer_features",), of_schema("viewer_features")[::-1], r"is \['like_rate', .*this build"),
    (
        ("retrieval_features",),
        [*of_schema("retrieval_features"), "mood", "from_mood"],
        "names mood, from_mood, which this build lacks; train the release again, or serve it with "
        "the build that it was made for",
    ),
    (("tasks",), [*of_schema("tasks"), "mood"], "names mood, which this build lacks; train the"),
    (("retrieval_features",), without("retrieval_features", "ease"), "lacks ease, which this"),
    (("tasks",), without("tasks", "like"), "lacks like, which this build has; train the release"),
    (("context_features",), {"hour": 25, "mood": 3}, r"\[mood\] is 3, this build has None"),
    (("context_features",), {"device": 9}, r"\[device\] is 9, this build has 5; train"),
    (("match_features",), [*of_schema("match_features"), "language_match"], "names language_match"),
    (("video_features",), GONE, "Field required; train the release again"),
    (("ease_recency",), GONE, "Field required; train the release again"),
    (("mood",), 1, "isn't known to this build; a newer one may have written it; train the release"),
]


@pytest.mark.parametrize(("place", "value", "message"), OTHER_SCHEMAS)
def test_a_manifest_of_another_build_is_refused_by_what_differs(
    place: Place, value: Any, message: str
) -> None:
    # Other fields of such a release may go by the names of its features too.
    document = manifest() | {"quotas": {"mood": 0.1}, "score_weights": {"mood": 1}}
    text = json.dumps(changed(document, ("feature_schema", *place), value)).encode()
    with pytest.raises(ReleaseError, match=rf"feature_schema\.{place[0]}.* ?{message}"):
        Manifest.parse(text, "here")


@pytest.mark.parametrize("version", [99, None, 4.0, True])
def test_a_manifest_of_another_format_is_refused_by_that_alone(version: Any) -> None:
    # A later format may have other fields too.
    text = json.dumps({"format_version": version, "something_new": True}).encode()
    message = f"format_version is {version}, this build serves {FORMAT_VERSION}; train the release"
    with pytest.raises(ReleaseError, match=message):
        Manifest.parse(text, "here")


def test_a_position_in_an_unknown_log_is_read_and_never_written() -> None:
    """The build before wrote it."""
    text = json.dumps(manifest() | {"catalog_position": 42}).encode()
    read = Manifest.parse(text, "here")
    assert read.catalog_log_position == BEGIN
    assert "catalog_position" not in json.loads(read.model_dump_json())


def test_a_release_says_which_context_its_models_read() -> None:
    document = manifest()
    assert "context_features" not in document["feature_schema"]
    known = FeatureSchema.ours(9, 8, ("hour", "language"), languages=True)
    document["feature_schema"] = known.model_dump(mode="json")
    found = Manifest.parse(json.dumps(document).encode(), "here").feature_schema
    assert found.context_features == {"hour": 25, "language": 677}
    assert found.match_features == ("content_match", "language_match")
