"""The gate, with releases that were really trained: what comes next can be learned."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from tests.builders.datasets import ring_interactions, write_small_dataset
from tests.builders.inference import golden
from tests.builders.releases import described_again, save_golden
from tests.ops.release.conftest import Publish, Vireo
from vireo.server.home import Home
from vireo.server.recommend.ranking.release import RankingRelease
from vireo.server.releases import layout
from vireo.server.releases.channels import Change
from vireo.server.releases.gate import GateResult
from vireo.server.releases.manifest import FORMAT_VERSION, Manifest, describe_files
from vireo.server.releases.promotion import PromotionRefusedError
from vireo.server.releases.store import ReleaseStore, manifest_place
from vireo.training.data.dataset import describe_dataset
from vireo.training.fit import add_measured, train_all

pytestmark = pytest.mark.integration
TASKS = ("watch", "like")
MEASURES = {"ndcg_10", "recall_100", "coverage_10", "inference_p50"} | {
    f"{task}_{measure}" for task in TASKS for measure in ("log_loss", "miscalibration")
}


@pytest.fixture(scope="module")
def ring_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a trained release, and two data sets that were fetched for trying Vireo out."""
    home = Home(tmp_path_factory.mktemp("ring"))
    write_small_dataset(home, "ring", ring_interactions())
    train_all(home, "ring", "quick", refit=False, console=Console(quiet=True))
    for name in ("shown", "also-shown"):
        write_small_dataset(home, name, ring_interactions(), "for research only")
    return home


def changed_copy(release: Path, folder: Path, **fields: object) -> Path:
    """The release in `folder`, which it returns, with other fields of the manifest."""
    shutil.copytree(release, folder)
    return described_again(folder, **fields)


def with_reversed_ranker(release: Path, folder: Path, release_id: str) -> Path:
    """The release with a ranker that likes best what it liked least, and goldens of it."""
    shutil.copytree(release, folder)
    path = folder / layout.RANKER
    model = onnx.load(str(path))
    for weights in model.graph.initializer:
        if weights.name in ("weights.watch_head", "weights.watch_linear"):
            values = numpy_helper.to_array(weights)
            weights.CopyFrom(numpy_helper.from_array(-values, weights.name))
    onnx.save(model, str(path))
    inputs, _ = golden(folder, layout.GOLDEN_RANKER)
    scores = RankingRelease.load(folder).ranker.run(inputs)
    save_golden(folder / layout.GOLDEN_RANKER, inputs, {"scores": scores})
    return described_again(folder, release_id=release_id)


@dataclass(frozen=True)
class Ring:
    """Releases made of the trained one, and the command run in its home.

    Releases of one id are the same in all tests: they share the home's cache.
    """

    home: Home
    store: ReleaseStore
    folder: Path
    vireo: Vireo

    @property
    def staged(self) -> Path:
        return self.home.staged_release("ring")

    @property
    def worse(self) -> Path:
        """The trained release with a worse ranker."""
        folder = self.folder / "reversed"
        return folder if folder.exists() else with_reversed_ranker(self.staged, folder, "worse")

    def publish(self, release_id: str, **fields: Any) -> str:
        """Publish a copy that says otherwise; return its id."""
        folder = self.folder / release_id
        self.store.publish(changed_copy(self.staged, folder, release_id=release_id, **fields))
        return release_id

    def publish_example(self, dataset: str, release_id: str) -> str:
        """Publish a release that says to be of a data set of this home; return its id."""
        found = describe_dataset(self.home, dataset).fingerprint
        return self.publish(release_id, dataset=dataset, data_fingerprint=found)

    def publish_refitted(self, release_id: str, release: Path, twin: Path) -> str:
        """Publish a release that says to hold out nothing, and has this measured twin."""
        folder = changed_copy(
            release, self.folder / release_id, release_id=release_id, holdout="none"
        )
        add_measured(folder, twin)
        Manifest.read(folder).model_copy(update={"files": describe_files(folder)}).write(folder)
        self.store.publish(folder)
        return release_id

    def name(self, release_id: str, channel: str = "production") -> None:
        """Point a channel at a release without asking the gate."""
        self.store.change_channel(channel, Change(release_id), self.store.read_channel(channel))

    def promoted(self, *arguments: str) -> str:
        """Output of a promotion, which must succeed."""
        done = self.vireo("promote", *arguments)
        assert done.exit_code == 0, done.output
        return done.output

    def refusal(self, *arguments: str) -> str:
        """Message of a promotion that the gate refuses."""
        refused = self.vireo("promote", *arguments)
        assert isinstance(refused.exception, PromotionRefusedError), refused.output
        return str(refused.exception)


@pytest.fixture
def ring(
    ring_home: Home,
    store: ReleaseStore,
    vireo: Vireo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ring:
    monkeypatch.setenv("VIREO_HOME", str(ring_home.root))
    return Ring(ring_home, store, tmp_path, vireo)


@pytest.fixture
def trained(ring: Ring) -> str:
    """The trained release, published by the command, and named by production."""
    done = ring.vireo("publish")
    assert done.exit_code == 0, done.output
    assert "gate: nothing to compare with: it is the channel's first release" in done.output
    channel = ring.store.read_channel("production")
    assert channel is not None
    return channel.release_id


def test_a_worsened_model_is_refused_and_a_better_one_accepted(ring: Ring, trained: str) -> None:
    ring.store.publish(ring.worse)
    ring.publish("equal")
    refused = ring.vireo("promote", "worse", "--json")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert "promote worse --channel production --force --reason" in str(refused.exception)
    report = json.loads(refused.stdout)
    assert (report["promoted"], report["gate"]["outcome"]) == (False, "refused")
    verdicts = {check["measure"]: check["verdict"] for check in report["gate"]["checks"]}
    assert set(verdicts) == MEASURES
    assert (verdicts["ndcg_10"], verdicts["watch_log_loss"]) == ("worse", "worse")
    table = ring.vireo("promote", "worse").stdout
    assert f"worse against {trained}" in table
    assert "ndcg_10" in table

    tried = ring.promoted("equal", "--dry-run")
    assert "the gate passes it; channel production stays as it is" in tried
    assert "the gate refuses worse" in ring.refusal("worse", "--dry-run")
    assert ring.store.read_channel("production").release_id == trained  # type: ignore[union-attr]

    equal = ring.promoted("equal", "--reason", "the same model")
    assert f"channel production now names equal instead of {trained}" in equal
    assert "against the gate" in ring.promoted("worse", "--force", "--reason", "to see")
    passed, record = ring.store.channels.history("production")[-2:]
    [before], [after] = passed.best_figures, record.best_figures
    assert after.held_out == before.held_out
    assert after.figures["ndcg_10"] < before.figures["ndcg_10"], "the loss is accepted"
    assert any(finding.startswith("ndcg_10 ") for finding in record.findings)
    history = ring.vireo("history").output
    assert "promote, forced" in history
    assert "to see" in history

    document = json.loads(ring.promoted(trained, "--json"))
    assert (document["promoted"], document["forced"]) == (True, False)
    assert "better" in {check["verdict"] for check in document["gate"]["checks"]}


def test_publish_uses_the_same_gate_and_keeps_refused_releases_published(
    ring: Ring, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(shutil.copytree(ring.home.root, ring.folder / "copy"))
    shutil.rmtree(home.staged_release("ring"))
    shutil.copytree(ring.worse, home.staged_release("ring"))
    monkeypatch.setenv("VIREO_HOME", str(home.root))
    refused = ring.vireo("publish", "--data", "ring")
    assert isinstance(refused.exception, PromotionRefusedError)
    assert ring.store.manifest("worse").release_id == "worse"
    assert [each.release_id for each in ring.store.channels.history("production")] == [trained]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset": "other"}, "is of data set other"),
        ({"holdout": "none"}, "holding out nothing"),
        ({"data_fingerprint": "f" * 64}, "was trained on other features of ring than these"),
    ],
)
def test_incomparable_releases_are_refused_with_the_reason(
    ring: Ring, trained: str, change: dict[str, str], why: str
) -> None:
    # As releases are, one of a kind: a cache keeps it.
    other = ring.publish(f"other-{next(iter(change))}", **change)
    refusal = ring.refusal(other)
    assert f"{other} can't be compared with {trained}" in refusal
    assert why in refusal
    ring.promoted(other, "--force", "--reason", "I know it")
    [finding] = ring.store.channels.history("production")[-1].findings
    assert why in finding


def test_own_data_replaces_example_data_and_rollback_undoes_it(ring: Ring, trained: str) -> None:
    ring.name(example := ring.publish_example("shown", "example"))
    done = ring.promoted(trained)
    assert f"{example} was made from example data, shown, and {trained} from ring" in done
    assert "to take it back: vireo release rollback" in done
    assert not ring.store.channels.history("production")[-1].forced
    assert f"channel production names {example} again" in ring.vireo("rollback").output


def test_example_data_gives_way_to_own_data_alone_and_in_its_channel_alone(
    ring: Ring, trained: str
) -> None:
    example, second = (ring.publish_example(name, f"of-{name}") for name in ("shown", "also-shown"))
    for channel in ("production", "canary"):
        assert "is of data set shown" in ring.refusal(example, "--channel", channel)
    ring.name(example)
    assert "data set ring" in ring.refusal(trained, "--channel", "canary"), "two data sets at once"
    assert "is of data set also-shown" in ring.refusal(second)
    # Others may have data of the same name.
    ring.name(ring.publish("namesake", dataset="shown", data_fingerprint="f" * 64))
    assert "namesake is of shown" in ring.refusal(trained)


def test_a_release_of_older_data_is_compared_on_the_current_held_out_watches(
    ring: Ring, trained: str
) -> None:
    ring.name(ring.publish("old", data_fingerprint="f" * 64), "other")
    done = ring.promoted(trained, "--channel", "other")
    assert "note: old was trained on an earlier state of the data" in done


def test_the_cache_stays_within_its_bounds_however_often_the_gate_is_asked(
    ring: Ring, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ring.folder / "cache"
    monkeypatch.setenv("VIREO_CACHE", str(cache))
    for number in range(4):
        folder = cache / "releases" / f"old-{number}"
        folder.mkdir(parents=True)
        os.utime(folder, (number, number))
    ring.promoted(ring.publish("equal"))
    assert {each.name for each in (cache / "releases").iterdir()} == {trained, "equal", "old-3"}


def test_releases_of_every_watch_are_judged_by_their_measured_twins(ring: Ring) -> None:
    for release_id, twin in (("now", ring.staged), ("same", ring.staged), ("lost", ring.worse)):
        ring.publish_refitted(release_id, ring.staged, twin)
    gate = json.loads(ring.promoted("now", "--json"))["gate"]
    assert gate["outcome"] == "passed"
    assert {check["verdict"] for check in gate["checks"]} == {"alike"}
    assert "the gate refuses lost" in ring.refusal("lost")
    ring.promoted("same")
    ring.name(ring.publish("measured-itself"))
    assert "ndcg_10" in ring.promoted("now")


def test_a_served_fit_that_differs_from_its_measured_twin_is_refused_and_can_be_forced(
    ring: Ring,
) -> None:
    ring.publish_refitted("astray", ring.worse, ring.staged)
    refusal = ring.refusal("astray")
    assert "the fit that would be served differs from its measured twin" in refusal
    assert "production still names nothing" in refusal
    forced = ring.promoted("astray", "--force", "--reason", "a test")
    assert "against its measured twin" in forced
    assert "against the gate" in forced
    channel = ring.store.read_channel("production")
    assert channel is not None
    assert channel.pointer.best_figures == ()
    ring.name(ring.publish_refitted("now", ring.staged, ring.staged))
    refusal = ring.refusal("astray")
    assert "the fit that would be served differs" in refusal
    assert "ndcg_10" not in refusal, "the twin is equal"


def test_a_first_release_passes_where_it_cannot_be_measured(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIREO_HOME", str(ring.folder / "home"))
    done = ring.promoted(ring.publish_refitted("first", ring.staged, ring.staged))
    assert "it is the channel's first release, and can't be compared" in done
    assert "there are no features of ring in " in done


@pytest.fixture
def untrained(store: ReleaseStore, vireo: Vireo, publish: Publish, tmp_path: Path) -> Ring:
    """Releases a, which production names, and b, whose data set isn't on this machine."""
    for release_id in "ab":
        publish(release_id)
    ring = Ring(Home(tmp_path / "home"), store, tmp_path, vireo)
    ring.promoted("a")
    return ring


def test_without_the_data_set_on_this_machine_the_gate_says_how_to_get_it(untrained: Ring) -> None:
    assert "vireo features build --data tiny" in untrained.refusal("b")


def test_logs_hear_that_releases_are_being_compared(
    untrained: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def heartbeat(console: Console, work: str) -> Iterator[None]:
        steps.append(f"{work}, on stderr: {console.stderr}")
        yield
        steps.append("silent again")

    def compare(*_: Any, **__: Any) -> GateResult:
        steps.append("compared")
        return GateResult("nothing to compare")

    steps: list[str] = []
    monkeypatch.setattr("vireo.training.progress.heartbeat", heartbeat)
    monkeypatch.setattr("vireo.training.release.comparison.Comparison.compare", compare)
    untrained.promoted("b")
    assert steps == ["comparing b, on stderr: True", "compared", "silent again"]


def test_without_the_training_extra_the_gate_names_it(
    untrained: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vireo.training.release.comparison", None)
    assert "pip install 'vireo[training]'" in untrained.refusal("b")
    untrained.promoted("b", "--force", "--reason", "tested elsewhere")


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (None, "isn't in bucket"),
        (b"{torn", "isn't a manifest"),
        (b'{"format_version": 99}', "format_version is 99"),
        (b'{"format_version": true}', "format_version is True"),
        (b'{"format_version": %d}' % FORMAT_VERSION, "manifest field feature_schema"),
        (b'{"format_version": 2}', ""),
    ],
)
def test_after_a_current_release_that_cannot_be_read_one_has_to_say_why_unless_its_format_is_older(
    untrained: Ring, manifest: bytes | None, why: str
) -> None:
    untrained.store.bucket.remove(manifest_place("a"))
    if manifest is not None:
        untrained.store.bucket.swap(manifest_place("a"), manifest, None)
    if not why:
        done = untrained.promoted("b")
        assert "the current release is of an earlier build's format" in done
        assert not untrained.store.channels.history("production")[-1].forced
        return
    assert "the current release can't be measured" in untrained.refusal("b")
    untrained.promoted("b", "--force", "--reason", "a is damaged")
    [finding] = untrained.store.channels.history("production")[-1].findings
    assert why in finding


def test_a_canary_gets_a_share_of_the_viewers(untrained: Ring) -> None:
    canary = ("a", "--channel", "canary")
    assert "no viewer gets it yet; give it some with" in untrained.promoted(*canary)
    assert "10.0% of the viewers get it" in untrained.promoted(*canary, "--share", "0.1")
    assert "names a already" in untrained.promoted(*canary)
    assert "names a already" in untrained.promoted("production", *canary[1:])
