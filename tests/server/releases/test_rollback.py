from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from tests.builders.s3 import client_of
from vireo.server.releases.channels import CANARY, BestFigures, Change
from vireo.server.releases.manifest import MANIFEST_NAME
from vireo.server.releases.rollback import NothingToReturnToError, roll_back
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.integration
Publish = Callable[[str], Path]


@pytest.fixture
def promote(store: ReleaseStore, publish: Publish) -> Callable[..., None]:
    def change(channel: str, release_id: str, share: float | None = None) -> None:
        publish(release_id)
        before = store.read_channel(channel)
        store.change_channel(channel, Change(release_id, share=share), before)

    return change


def test_each_rollback_undoes_one_promotion(
    store: ReleaseStore, promote: Callable[..., None], name: str
) -> None:
    a, b, c, d = (f"{name}-{letter}" for letter in "abcd")
    for release_id in (a, b, c):
        promote(name, release_id)
    assert roll_back(store, name, "slow").pointer.release_id == b
    # What was rolled back from is passed over, and a promotion counts from where it was made.
    promote(name, d)
    assert [roll_back(store, name).pointer.release_id for _ in range(2)] == [b, a]
    with pytest.raises(NothingToReturnToError, match=f"before {a}; choose one of"):
        roll_back(store, name)
    assert [
        (each.action, each.release_id, each.reason) for each in store.channels.history(name)
    ] == [
        ("promote", a, ""),
        ("promote", b, ""),
        ("promote", c, ""),
        ("rollback", b, "slow"),
        ("promote", d, ""),
        ("rollback", b, ""),
        ("rollback", a, ""),
    ]


def test_the_best_figures_are_again_those_of_then(
    store: ReleaseStore, publish: Publish, name: str
) -> None:
    figures = [(BestFigures(held_out="0" * 64, figures={"ndcg_10": best}),) for best in (0.1, 0.2)]
    for best in figures:
        publish(name)
        store.change_channel(name, Change(name, best_figures=best), store.read_channel(name))
        publish(f"{name}-b")
        change = Change(f"{name}-b", best_figures=())
        store.change_channel(name, change, store.read_channel(name))
        assert roll_back(store, name).pointer.best_figures == best


def test_promoting_the_current_release_adds_no_rollback_step(
    store: ReleaseStore, promote: Callable[..., None], name: str
) -> None:
    a, b = f"{name}-a", f"{name}-b"
    for release_id in (a, b, b):
        promote(name, release_id)
    assert roll_back(store, name).pointer.release_id == a


def test_a_removed_release_is_skipped_and_reported(
    store: ReleaseStore, s3: S3Settings, promote: Callable[..., None], name: str
) -> None:
    a, b, c = (f"{name}-{letter}" for letter in "abc")
    for release_id in (a, b, c):
        promote(name, release_id)
    client_of(s3).remove_object(s3.bucket, f"releases/{b}/{MANIFEST_NAME}")
    done = roll_back(store, name)
    assert (done.before.release_id, done.pointer.release_id, done.gone) == (c, a, (b,))


def test_a_history_that_leads_in_a_circle_ends_a_rollback(
    store: ReleaseStore, s3: S3Settings, promote: Callable[..., None], name: str
) -> None:
    for release_id in (f"{name}-a", f"{name}-b"):
        promote(name, release_id)
    record = store.channels.recorded(name, 1)
    assert record is not None
    gone = record.model_copy(update={"release_id": "gone", "returns_to": 1})
    body = gone.model_dump_json().encode()
    place = f"channels/history/{name}/00000001.json"
    client_of(s3).put_object(s3.bucket, place, BytesIO(body), len(body))
    with pytest.raises(NothingToReturnToError, match="gone was removed from the store"):
        roll_back(store, name)


def test_a_release_that_this_build_does_not_understand_can_be_gone_back_to(
    store: ReleaseStore, s3: S3Settings, promote: Callable[..., None], name: str
) -> None:
    a, b = f"{name}-a", f"{name}-b"
    for release_id in (a, b):
        promote(name, release_id)
    older = b'{"format_version": 1}'
    place = f"releases/{a}/{MANIFEST_NAME}"
    client_of(s3).put_object(s3.bucket, place, BytesIO(older), len(older))
    assert roll_back(store, name).pointer.release_id == a
    client_of(s3).remove_object(s3.bucket, place)


def test_the_canary_gets_the_share_back_that_it_had(
    store: ReleaseStore, promote: Callable[..., None], name: str
) -> None:
    promote(CANARY, f"{name}-a", 0.05)
    promote(CANARY, f"{name}-b", 0.4)
    pointer = roll_back(store, CANARY).pointer
    assert (pointer.release_id, pointer.share) == (f"{name}-a", 0.05)


def test_a_channel_that_was_never_set_says_how_to_set_it(store: ReleaseStore, name: str) -> None:
    with pytest.raises(NothingToReturnToError, match=f"promote ID --channel {name}"):
        roll_back(store, name)
