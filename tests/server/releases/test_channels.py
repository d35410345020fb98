from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from io import BytesIO
from threading import Barrier

import pytest

from tests.builders.faulty_s3 import Fault, faulty_s3
from tests.builders.releases import build_release
from tests.builders.s3 import client_of
from vireo.server.releases.bucket import (
    ChannelChangedError,
    StoreError,
    StoreUnavailableError,
)
from vireo.server.releases.channels import BestFigures, Change
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration
TRIALS = 50


@pytest.fixture(scope="module", autouse=True)
def releases(s3: S3Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Publish the releases a and b."""
    for release_id in "ab":
        folder = build_release(tmp_path_factory.mktemp(release_id), release_id=release_id)
        ReleaseStore(s3).publish(folder)


def stored_history(s3: S3Settings, name: str) -> list[str]:
    objects = client_of(s3).list_objects(s3.bucket, f"channels/history/{name}/")
    names = [str(entry.object_name).split("/")[-1] for entry in objects]
    return [name for name in names if name]  # the server lists the folder itself, too


def test_a_channels_history_records_who_when_and_why(
    store: ReleaseStore, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.read_channel(name) is None
    assert store.channels.history(name) == ()
    first = store.change_channel(name, Change("a", updated_by="ada"), None)
    channel = store.read_channel(name)
    assert channel is not None
    assert channel.pointer == first
    assert (channel.release_id, first.updated_by, first.previous) == ("a", "ada", None)

    monkeypatch.setenv("VIREO_USER", "grace")
    findings = ("NDCG@10 0.1 instead of 0.2",)
    best = (BestFigures(held_out="0" * 64, figures={"ndcg_10": 0.1}),)
    change = Change("b", reason="it is Monday", forced=True, findings=findings, best_figures=best)
    second = store.change_channel(name, change, channel)

    assert store.channels.all()[name].release_id == "b"
    assert store.channels.history(name) == (first, second)
    assert store.channels.history(name, last=1) == (second,)
    assert (second.updated_by, second.reason, second.previous) == (
        "grace",
        "it is Monday",
        "a",
    )
    assert (second.forced, second.findings, second.best_figures) == (True, findings, best)
    assert first.updated_at < second.updated_at
    assert (first.revision, second.revision) == (1, 2)


def test_of_two_promotions_at_once_exactly_one_wins_and_the_history_has_no_gap(
    store: ReleaseStore, name: str
) -> None:
    start = Barrier(2)
    won: list[str] = []

    def promote(release_id: str) -> str | None:
        seen = store.read_channel(name)
        start.wait(60)
        try:
            store.change_channel(name, Change(release_id, updated_by=release_id), seen)
        except ChannelChangedError:
            return None
        return release_id

    with ThreadPoolExecutor(2) as threads:
        for _ in range(TRIALS):
            [winner] = filter(None, threads.map(promote, "ab"))
            won.append(winner)

    history = store.channels.history(name)
    assert [record.revision for record in history] == list(range(1, TRIALS + 1))
    assert [record.updated_by for record in history] == won
    assert [record.previous for record in history] == [None, *won[:-1]]
    with pytest.raises(ChannelChangedError, match="changed by somebody else"):
        store.change_channel(name, Change("a"), None)  # by whom it was never seen


@pytest.mark.parametrize("fault", ["none", "busy", "fails", "refuses"])
def test_a_change_whose_record_fails_or_is_lost_in_a_crash_is_made_and_recorded_by_the_next(
    store: ReleaseStore, s3: S3Settings, name: str, fault: Fault
) -> None:
    with faulty_s3(s3) as proxy:
        proxy.fault, proxy.only = fault, f"PUT /{s3.bucket}/channels/history/{name}/".encode()
        first = ReleaseStore(proxy.settings).change_channel(name, Change("a"), None)
    if fault == "none":
        client_of(s3).remove_object(s3.bucket, f"channels/history/{name}/00000001.json")
    assert stored_history(s3, name) == []
    assert store.channels.history(name) == (first,), "the channel itself has it"
    second = store.change_channel(name, Change("a"), store.read_channel(name))
    assert store.channels.history(name) == (first, second)
    assert stored_history(s3, name) == ["00000001.json", "00000002.json"]


@pytest.mark.parametrize(
    ("fault", "made"), [("stops", True), ("hangs", True), ("busy", False), ("fails", False)]
)
def test_a_change_whose_answer_is_lost_is_made_and_one_that_failed_may_be_tried_again(
    store: ReleaseStore, s3: S3Settings, name: str, fault: Fault, made: bool
) -> None:
    store.change_channel(name, Change("a"), None)
    with faulty_s3(s3, read_timeout=2.0) as proxy:
        proxy.fault, proxy.only = fault, f"PUT /{s3.bucket}/channels/{name}.json".encode()
        through = ReleaseStore(proxy.settings)
        retry = pytest.raises(StoreUnavailableError, match=r"responds HTTP 50.*then try again")
        with nullcontext() if made else retry:
            through.change_channel(name, Change("b"), through.read_channel(name))
    assert [each.release_id for each in store.channels.history(name)] == ["a", *"b" * made]
    assert len(stored_history(s3, name)) == 1 + made


def test_foreign_objects_hide_no_channel_and_no_record_is_overwritten(
    store: ReleaseStore, s3: S3Settings, name: str
) -> None:
    first = store.change_channel(name, Change("a"), None)
    odd = ("channels/No Channel.json", "channels/a.b.json", f"channels/history/{name}/latest.json")
    for place in odd:
        client_of(s3).put_object(s3.bucket, place, BytesIO(b"?"), 1)
    assert store.channels.all()[name].pointer == first
    assert store.channels.history(name) == (first,)
    # Somebody removes the channel: its numbers go on.
    client_of(s3).remove_object(s3.bucket, f"channels/{name}.json")
    second = store.change_channel(name, Change("a"), None)
    assert store.channels.history(name) == (first, second)
    for place in odd:
        client_of(s3).remove_object(s3.bucket, place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change("never-published"), "isn't in bucket"),
        (Change("a", reason="x" * 20_000), "can't hold that: reason: String should"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(
    store: ReleaseStore, name: str, change: Change, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        store.change_channel(name, change, None)
    assert store.read_channel(name) is None


def test_findings_of_any_length_are_kept_as_far_as_a_channel_holds_them(
    store: ReleaseStore, name: str
) -> None:
    findings = ("x" * 5000,) * 20
    made = store.change_channel(name, Change("a", forced=True, findings=findings), None)
    assert made == getattr(store.read_channel(name), "pointer", None)
    assert (len(made.findings), len(made.findings[0])) == (16, 4000)
