"""The gate, with releases that were really trained: what comes next can be learned."""

from __future__ import annotations

import json
import os
import shutil
import sys
from io import BytesIO
from pathlib import Path

import pytest

from tests.builders.datasets import ring_interactions, write_small_dataset
from tests.builders.s3 import client_of
from tests.builders.variants import changed_copy, with_shuffled_ranker
from tests.ops.release.conftest import Publish, Vireo
from vireo.ops.cli.release.promote import PromotionRefusedError
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.releases.channels import Change
from vireo.server.releases.manifest import FORMAT_VERSION, Manifest
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import NotInStoreError
from vireo.training.data.dataset import describe_dataset
from vireo.training.train import train_all

pytestmark = pytest.mark.integration
MEASURES = {
    "ndcg_10",
    "recall_100",
    "coverage_10",
    "watch_log_loss",
    "watch_miscalibration",
    "like_log_loss",
    "like_miscalibration",
    "inference_p50",
}


@pytest.fixture(scope="module")
def ring_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("ring"))
    write_small_dataset(home, "ring", ring_interactions())
    train_all(home, "ring", "quick", refit=False)
    return home


@pytest.fixture
def trained(
    ring_home: Home, store: ReleaseStore, vireo: Vireo, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The trained release, published by the command, and named by production."""
    monkeypatch.setenv("VIREO_HOME", str(ring_home.root))
    done = vireo("publish")
    assert done.exit_code == 0, done.output
    assert "gate: nothing to compare with: it is the channel's first release" in done.output
    channel = store.read_channel("production")
    assert channel is not None
    return channel.release_id


@pytest.fixture
def example(ring_home: Home, store: ReleaseStore, tmp_path: Path) -> str:
    """A published release of a data set that was fetched for trying Vireo out."""
    if not ring_home.data("shown").exists():
        write_small_dataset(ring_home, "shown", ring_interactions(), "for research only")
    return publish_example(ring_home, store, tmp_path, "shown", "example")


def publish_example(
    home: Home, store: ReleaseStore, tmp_path: Path, dataset: str, release_id: str, **other: str
) -> str:
    """Publish a release that says to be of a data set of this home; return its id."""
    fields = {"data_fingerprint": describe_dataset(home, dataset).fingerprint, **other}
    staged = home.staged_release("ring")
    folder = tmp_path / release_id
    store.publish(changed_copy(staged, folder, release_id=release_id, dataset=dataset, **fields))
    return release_id


def test_a_worsened_model_is_refused_and_a_better_one_accepted(
    trained: str, ring_home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    staged = ring_home.staged_release("ring")
    store.publish(with_shuffled_ranker(staged, tmp_path / "worse", "worse"))
    store.publish(changed_copy(staged, tmp_path / "equal", release_id="equal"))

    refused = vireo("promote", "worse", "--json")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "the gate refuses worse, and production still names" in str(refused.exception)
    assert "promote worse --channel production --force --reason" in str(refused.exception)
    report = json.loads(refused.stdout)
    assert (report["promoted"], report["gate"]["outcome"]) == (False, "refused")
    verdicts = {check["measure"]: check["verdict"] for check in report["gate"]["checks"]}
    assert set(verdicts) == MEASURES
    assert (verdicts["ndcg_10"], verdicts["watch_log_loss"]) == ("worse", "worse")
    assert [record.release_id for record in store.channels.history("production")] == [trained]

    table = vireo("promote", "worse").stdout
    assert f"worse against {trained}" in table
    assert "NDCG@10" in table

    equal = vireo("promote", "equal", "--reason", "the same model")
    assert equal.exit_code == 0, equal.output
    assert f"channel production now names equal instead of {trained}" in equal.output

    forced = vireo("promote", "worse", "--force", "--reason", "to see what happens")
    assert forced.exit_code == 0, forced.output
    assert "against the gate" in forced.output
    passed, record = store.channels.history("production")[-2:]
    [before], [after] = passed.best_figures, record.best_figures
    assert after.held_out == before.held_out
    assert after.figures["ndcg_10"] < before.figures["ndcg_10"], "the loss is accepted"
    assert (record.forced, record.reason) == (True, "to see what happens")
    assert any(finding.startswith("ndcg_10 ") for finding in record.findings)
    history = vireo("history").output
    assert "promote, forced" in history
    assert "to see what happens" in history

    better = vireo("promote", trained, "--json")
    assert better.exit_code == 0, better.output
    document = json.loads(better.stdout)
    assert (document["promoted"], document["forced"]) == (True, False)
    assert "better" in {check["verdict"] for check in document["gate"]["checks"]}


def test_publish_uses_the_same_gate_and_keeps_refused_releases_published(
    trained: str,
    ring_home: Home,
    store: ReleaseStore,
    vireo: Vireo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = Home(shutil.copytree(ring_home.root, tmp_path / "copy"))
    staged = home.staged_release("ring")
    shutil.rmtree(staged)
    with_shuffled_ranker(ring_home.staged_release("ring"), staged, "worse")
    monkeypatch.setenv("VIREO_HOME", str(home.root))
    refused = vireo("publish", "--data", "ring")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert store.manifest("worse").release_id == "worse"
    channel = store.read_channel("production")
    assert channel is not None
    assert channel.release_id == trained


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset": "other"}, "is of data set other"),
        ({"holdout": "none"}, "holding out nothing"),
        ({"data_fingerprint": "f" * 64}, "was trained on other features of ring than these"),
    ],
)
def test_incomparable_releases_are_refused_with_the_reason(
    trained: str,
    ring_home: Home,
    store: ReleaseStore,
    vireo: Vireo,
    tmp_path: Path,
    change: dict[str, str],
    why: str,
) -> None:
    staged = ring_home.staged_release("ring")
    other = f"other-{next(iter(change))}"  # as releases are, one of a kind: a cache keeps it
    store.publish(changed_copy(staged, tmp_path / other, release_id=other, **change))
    refused = vireo("promote", other)
    assert isinstance(refused.exception, PromotionRefusedError)
    assert f"{other} can't be compared with {trained}" in str(refused.exception)
    assert why in str(refused.exception)
    forced = vireo("promote", other, "--force", "--reason", "I know it")
    assert forced.exit_code == 0, forced.output
    [finding] = store.channels.history("production")[-1].findings
    assert why in finding


def test_own_data_replaces_example_data_and_rollback_undoes_it(
    trained: str,
    example: str,
    store: ReleaseStore,
    vireo: Vireo,
) -> None:
    store.change_channel("production", Change(example), store.read_channel("production"))
    done = vireo("promote", trained)
    assert done.exit_code == 0, done.output
    assert f"{example} was made from example data, shown, and {trained} from ring" in done.output
    assert "to take it back: vireo release rollback" in done.output
    assert not store.channels.history("production")[-1].forced
    back = vireo("rollback")
    assert f"channel production names {example} again" in back.output


def test_example_data_replaces_neither_own_data_nor_a_canary_share(
    trained: str, example: str, store: ReleaseStore, vireo: Vireo
) -> None:
    for channel in ("production", "canary"):
        refused = vireo("promote", example, "--channel", channel)
        assert isinstance(refused.exception, PromotionRefusedError), channel
        assert "is of data set shown" in str(refused.exception)
    store.change_channel("production", Change(example), store.read_channel("production"))
    canary = vireo("promote", trained, "--channel", "canary")
    assert isinstance(canary.exception, PromotionRefusedError), "two data sets at a time"


def test_example_data_replaces_other_example_data_only_if_measured(
    trained: str, example: str, ring_home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    if not ring_home.data("also-shown").exists():
        write_small_dataset(ring_home, "also-shown", ring_interactions(), "for research only")
    publish_example(ring_home, store, tmp_path, "also-shown", "second")
    store.change_channel("production", Change(example), store.read_channel("production"))
    refused = vireo("promote", "second")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "is of data set also-shown" in str(refused.exception)


def test_a_release_of_other_data_under_the_name_of_example_data_gives_way_to_nothing_unmeasured(
    trained: str, example: str, ring_home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    publish_example(ring_home, store, tmp_path, "shown", "namesake", data_fingerprint="f" * 64)
    store.change_channel("production", Change("namesake"), store.read_channel("production"))
    refused = vireo("promote", trained)
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "namesake is of shown" in str(refused.exception)


def test_a_release_of_older_data_is_compared_on_the_current_held_out_watches(
    trained: str, ring_home: Home, store: ReleaseStore, vireo: Vireo, tmp_path: Path
) -> None:
    staged = ring_home.staged_release("ring")
    store.publish(
        changed_copy(staged, tmp_path / "old", release_id="old", data_fingerprint="f" * 64)
    )
    store.change_channel("other", Change("old"), None)
    done = vireo("promote", trained, "--channel", "other")
    assert done.exit_code == 0, done.output
    assert "note: old was trained on an earlier state of the data" in done.output


def test_without_the_data_set_on_this_machine_the_gate_says_how_to_get_it(
    publish: Publish, vireo: Vireo
) -> None:
    publish("a")
    publish("b")
    assert vireo("promote", "a").exit_code == 0
    refused = vireo("promote", "b")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "vireo features build tiny" in str(refused.exception)


def test_without_the_training_extra_the_gate_names_it(
    publish: Publish, vireo: Vireo, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("a")
    publish("b")
    assert vireo("promote", "a").exit_code == 0
    monkeypatch.setitem(sys.modules, "vireo.training.release.promotion", None)
    refused = vireo("promote", "b")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "pip install 'vireo[training]'" in str(refused.exception)
    assert vireo("promote", "b", "--force", "--reason", "tested elsewhere").exit_code == 0


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (None, "isn't in bucket"),
        (b"{torn", "isn't a manifest"),
        (b'{"format_version": 99}', "format_version is 99"),
        (b'{"format_version": true}', "format_version is True"),
        (b'{"format_version": %d}' % FORMAT_VERSION, "manifest field feature_schema"),
    ],
)
def test_after_a_current_release_that_cannot_be_read_one_has_to_say_why(
    publish: Publish,
    s3: S3Settings,
    store: ReleaseStore,
    vireo: Vireo,
    manifest: bytes | None,
    why: str,
) -> None:
    publish("a")
    publish("b")
    assert vireo("promote", "a").exit_code == 0
    replace_manifest(s3, "a", manifest)
    refused = vireo("promote", "b")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "the current release can't be measured" in str(refused.exception)
    forced = vireo("promote", "b", "--force", "--reason", "a is damaged")
    assert forced.exit_code == 0, forced.output
    [finding] = store.channels.history("production")[-1].findings
    assert why in finding


def test_the_first_release_of_a_new_format_follows_an_older_one_by_itself(
    publish: Publish, s3: S3Settings, store: ReleaseStore, vireo: Vireo
) -> None:
    publish("a")
    publish("b")
    assert vireo("promote", "a").exit_code == 0
    replace_manifest(s3, "a", b'{"format_version": 2}')
    done = vireo("promote", "b")
    assert done.exit_code == 0, done.output
    assert "the current release is of an earlier build's format" in done.output
    assert not store.channels.history("production")[-1].forced


def replace_manifest(s3: S3Settings, release_id: str, manifest: bytes | None) -> None:
    """Have the store hold another manifest of a release, or none."""
    client, place = client_of(s3), f"releases/{release_id}/manifest.json"
    client.remove_object(s3.bucket, place)
    if manifest is not None:
        client.put_object(s3.bucket, place, BytesIO(manifest), len(manifest))


def test_the_first_canary_is_compared_with_production_and_shadow_with_nothing(
    publish: Publish, store: ReleaseStore, vireo: Vireo
) -> None:
    publish("a")
    publish("b")
    assert vireo("promote", "a").exit_code == 0
    refused = vireo("promote", "b", "--channel", "canary", "--share", "0.5")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "b can't be compared with a, and canary still names nothing" in str(refused.exception)
    assert store.read_channel("canary") is None
    same = vireo("promote", "a", "--channel", "canary", "--share", "0.5")
    assert same.exit_code == 0, same.output
    assert "production names it already" in same.output
    shadow = vireo("promote", "b", "--channel", "shadow")
    assert shadow.exit_code == 0, shadow.output
    assert "shadow pods serve no viewer" in shadow.output


def test_a_later_canary_is_compared_with_production_too(
    publish: Publish, store: ReleaseStore, vireo: Vireo
) -> None:
    for release_id in "abc":
        publish(release_id)
    assert vireo("promote", "a").exit_code == 0
    forced = vireo("promote", "b", "--channel", "canary", "--force", "--reason", "a test")
    assert forced.exit_code == 0, forced.output
    refused = vireo("promote", "c", "--channel", "canary", "--json")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert json.loads(refused.stdout)["compared_with"] == "a"
    channel = store.read_channel("canary")
    assert channel is not None
    assert channel.release_id == "b"


def test_the_cache_stays_within_its_bounds_however_often_the_gate_is_asked(
    trained: str,
    ring_home: Home,
    store: ReleaseStore,
    vireo: Vireo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("VIREO_CACHE", str(cache))
    for number in range(4):
        folder = cache / "releases" / f"old-{number}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    staged = ring_home.staged_release("ring")
    store.publish(changed_copy(staged, tmp_path / "equal", release_id="equal"))
    done = vireo("promote", "equal")
    assert done.exit_code == 0, done.output
    assert {each.name for each in (cache / "releases").iterdir()} == {trained, "equal", "old-3"}


def test_the_canarys_share_is_set_and_changed_and_no_other_channel_has_one(
    publish: Publish, store: ReleaseStore, vireo: Vireo
) -> None:
    publish("a")
    first = vireo("promote", "a", "--channel", "canary")
    assert "no viewer gets it yet; give it some with" in first.output
    changed = vireo("promote", "a", "--channel", "canary", "--share", "0.1")
    assert changed.exit_code == 0, changed.output
    assert "10.0% of the viewers get it" in changed.output
    assert [(each.action, each.share) for each in store.channels.history("canary")] == [
        ("promote", 0.0),
        ("share", 0.1),
    ]
    assert "names a already" in vireo("promote", "a", "--channel", "canary").output
    wrong = vireo("promote", "a", "--share", "0.1")
    assert "only the canary has a share" in str(wrong.exception)


def test_forcing_needs_a_reason_and_a_release_that_is_there(publish: Publish, vireo: Vireo) -> None:
    publish("a")
    unexplained = vireo("promote", "a", "--force")
    assert isinstance(unexplained.exception, VireoError)
    assert "give a reason with --reason" in str(unexplained.exception)
    missing = vireo("promote", "nowhere", "--force", "--reason", "why not")
    assert isinstance(missing.exception, NotInStoreError)


def test_a_worsened_release_is_fit_to_be_served(ring_home: Home, tmp_path: Path) -> None:
    from vireo.training.release.measure import LoadedRelease

    folder = with_shuffled_ranker(ring_home.staged_release("ring"), tmp_path / "worse", "worse")
    LoadedRelease.load(folder)
    assert Manifest.read(folder).release_id == "worse"
