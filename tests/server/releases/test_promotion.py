from pathlib import Path
from typing import Any

import pytest

from tests.builders.releases import build_release
from vireo.server.errors import VireoError
from vireo.server.releases.bucket import NotInStoreError
from vireo.server.releases.channels import CANARY, BestFigures, Change, Channel
from vireo.server.releases.gate import Check, GateResult
from vireo.server.releases.promotion import (
    PRODUCTION,
    NothingToReturnToError,
    PromotionRefusedError,
    PromotionRequest,
    promote,
    roll_back,
)
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore, manifest_place

pytestmark = pytest.mark.integration
WORSE = Check("ndcg_10", 0.2, 0.1, -0.1, 0.004, 0.01, 0.03, "worse", refused=True)
REFUSED = GateResult("refused", (WORSE,), 9, "0" * 64)
PASSED = GateResult("passed", (), 9, "0" * 64)


@pytest.fixture
def own(s3: S3Settings, name: str, tmp_path: Path) -> ReleaseStore:
    """A bucket of the test's own, with releases a to d: promotions look at production."""
    store = ReleaseStore(s3.model_copy(update={"bucket": f"promotions-{name}"}))
    for letter in "abcd":
        store.publish(build_release(tmp_path / letter, release_id=letter))
    return store


@pytest.mark.parametrize(
    ("channel", "release_id", "named", "compared"),
    [
        ("production", "c", {}, None),
        ("production", "c", {"production": "a", "canary": "b"}, ("a", True)),
        ("canary", "c", {"production": "a"}, ("a", False)),
        ("canary", "c", {"production": "a", "canary": "b"}, ("a", False)),
        ("canary", "c", {"canary": "b"}, ("b", True)),
        ("canary", "a", {"production": "a"}, None),
        ("other", "c", {"production": "a"}, ("a", False)),
        ("other", "c", {"production": "a", "other": "b"}, ("b", True)),
    ],
)
def test_a_release_is_compared_with_the_one_that_its_viewers_would_get(
    own: ReleaseStore,
    channel: str,
    release_id: str,
    named: dict[str, str],
    compared: tuple[str, bool] | None,
) -> None:
    for name, current in named.items():
        own.change_channel(name, Change(current), None)
    asked: list[tuple[str, bool]] = []

    def gate(current: Channel | None, replaces: bool) -> GateResult:
        assert current is not None
        asked.append((current.release_id, replaces))
        return PASSED

    done = promote(own, release_id, PromotionRequest(channel), gate)
    done.check()
    assert asked == ([compared] if compared else [])
    assert done.pointer is not None
    after = own.read_channel(channel)
    assert after is not None
    assert after.release_id == release_id


def test_a_refused_release_is_promoted_only_with_a_reason(own: ReleaseStore) -> None:
    own.change_channel(PRODUCTION, Change("a"), None)
    refused = promote(own, "b", PromotionRequest(PRODUCTION), lambda *_: REFUSED)
    with pytest.raises(PromotionRefusedError, match="refuses b, and production still names a"):
        refused.check()
    assert refused.pointer is None
    assert own.channels.history(PRODUCTION)[-1].release_id == "a"
    with pytest.raises(VireoError, match="give a reason with --reason"):
        PromotionRequest(PRODUCTION, force=True)
    request = PromotionRequest(PRODUCTION, force=True, reason="to see")
    forced = promote(own, "b", request, lambda *_: REFUSED)
    forced.check()
    record = own.channels.history(PRODUCTION)[-1]
    assert (record.release_id, record.forced, record.reason) == ("b", True, "to see")
    assert record.findings == REFUSED.findings
    with pytest.raises(NotInStoreError):
        promote(own, "nowhere", request, lambda *_: PASSED)


def test_of_a_release_that_the_canary_names_only_the_share_changes_and_the_next_keeps_it(
    own: ReleaseStore,
) -> None:
    def shares(named: str, share: float | None = None) -> list[tuple[str, float]]:
        gate = PASSED if named == "b" else REFUSED
        promote(own, named, PromotionRequest(CANARY, share), lambda *_: gate).check()
        return [(each.action, each.share) for each in own.channels.history(CANARY)]

    given = [("promote", 0.0), ("share", 0.1)]
    assert shares("a") == given[:1]
    assert shares("a", 0.1) == shares("a", 0.1) == shares("a") == given
    assert shares("b") == [*given, ("promote", 0.1)], "it stays until another is given"
    with pytest.raises(VireoError, match="only the canary has a share"):
        PromotionRequest(PRODUCTION, 0.1)


def name_each(
    store: ReleaseStore, release_ids: str, channel: str = PRODUCTION, **more: Any
) -> None:
    """Have a channel name these releases, one after the other, without asking the gate."""
    for release_id in release_ids:
        change = Change(release_id, **more)
        store.change_channel(channel, change, store.read_channel(channel))


def replace_object(store: ReleaseStore, place: str, body: bytes) -> None:
    store.bucket.remove(place)
    store.bucket.swap(place, body, None)


def test_each_rollback_undoes_one_promotion(own: ReleaseStore) -> None:
    name_each(own, "abcc")  # what is named already is no step of its own
    assert roll_back(own, PRODUCTION, "slow").pointer.release_id == "b"
    # What was rolled back from is passed over, and a promotion counts from where it was made.
    name_each(own, "d")
    assert [roll_back(own, PRODUCTION).pointer.release_id for _ in range(2)] == ["b", "a"]
    with pytest.raises(NothingToReturnToError, match="before a; choose one of"):
        roll_back(own, PRODUCTION)
    assert [
        (each.action, each.release_id, each.reason) for each in own.channels.history(PRODUCTION)
    ] == [
        *(("promote", release_id, "") for release_id in "abcc"),
        ("rollback", "b", "slow"),
        ("promote", "d", ""),
        ("rollback", "b", ""),
        ("rollback", "a", ""),
    ]


def test_the_canary_gets_the_share_and_the_best_figures_back_that_it_had(own: ReleaseStore) -> None:
    for share, best in ((0.05, 0.1), (0.4, 0.2)):
        had = (BestFigures(held_out="0" * 64, figures={"ndcg_10": best}),)
        name_each(own, "a", CANARY, share=share, best_figures=had)
        name_each(own, "b", CANARY, share=0.7)
        pointer = roll_back(own, CANARY).pointer
        assert (pointer.release_id, pointer.share, pointer.best_figures) == ("a", share, had)


def test_a_removed_release_is_skipped_and_reported(own: ReleaseStore) -> None:
    name_each(own, "abc")
    own.bucket.remove(manifest_place("b"))
    done = roll_back(own, PRODUCTION)
    assert (done.before.release_id, done.pointer.release_id, done.gone) == ("c", "a", ("b",))


def test_a_history_that_leads_in_a_circle_ends_a_rollback(own: ReleaseStore) -> None:
    name_each(own, "ab")
    record = own.channels.recorded(PRODUCTION, 1)
    assert record is not None
    gone = record.model_copy(update={"release_id": "gone", "returns_to": 1})
    replace_object(own, f"channels/history/{PRODUCTION}/00000001.json", gone.body())
    with pytest.raises(NothingToReturnToError, match="gone was removed from the store"):
        roll_back(own, PRODUCTION)


def test_a_release_that_this_build_does_not_understand_can_be_gone_back_to(
    own: ReleaseStore,
) -> None:
    name_each(own, "ab")
    replace_object(own, manifest_place("a"), b'{"format_version": 1}')
    assert roll_back(own, PRODUCTION).pointer.release_id == "a"


def test_a_channel_that_was_never_set_says_how_to_set_it(own: ReleaseStore) -> None:
    with pytest.raises(NothingToReturnToError, match=f"promote ID --channel {PRODUCTION}"):
        roll_back(own, PRODUCTION)
