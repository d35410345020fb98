"""The site's rules apply to every slate: by a file, which is followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders.attributes import labels_of, numbers_of
from tests.builders.chain import AWAY, POPULAR, Chain, names
from tests.builders.filters import condition, message
from tests.builders.relay import Relay, relaying
from tests.builders.releases import CREATORS, video_ids
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.v1 import recommendation_pb2 as pb

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

ROWS = {name: row for row, name in enumerate(video_ids(40))}
FREE = [name for name in ROWS if name not in WATCHED]
PINNED = FREE[-1]
GERMAN = (
    '[[filters]]\nname = "german"\nconditions = [{ attribute = "language", any_of = ["de"] }]\n'
)


def labels(name: str, attribute: str) -> set[str]:
    found = labels_of(ROWS[name], CREATORS)
    return {each for each in found if each.startswith(f"{attribute}=")}


def german(name: str) -> bool:
    return "language=de" in labels(name, "language")


def request(**fields: Any) -> pb.RecommendRequest:
    return pb.RecommendRequest(**{"viewer_id": VIEWER, "page_size": 40, "explain": True, **fields})


def applied(slate: pb.RecommendResponse) -> dict[str, int]:
    return {rule.name: rule.count for rule in slate.explanation.rules}


class Site:
    """Pods, and a file of rules for the gateways before them."""

    def __init__(self, chain: Chain, file: Path) -> None:
        self.chain, self.file = chain, file

    def __call__(self, text: str, away: str = "", **changes: Any) -> Any:
        """A gateway with these rules, before pods a kind of which may be away."""
        self.file.write_text(text)
        return self.chain.gateway(rules=self.file, away=away, **changes)


@pytest.fixture
def site(chain: Chain, tmp_path: Path) -> Site:
    return Site(chain, tmp_path / "rules.toml")


@pytest.mark.parametrize(("away", "degradations"), AWAY)
async def test_a_filter_of_the_site_holds_in_whole_and_degraded_slates(
    site: Site, away: str, degradations: list[int]
) -> None:
    async with site(GERMAN, away) as stub:
        slate = await stub.Recommend(request())
        similar = await stub.SimilarVideos(pb.SimilarVideosRequest(video_id="video-9"))
        short = message(condition("duration", max=300))
        both = await stub.Recommend(request(filter=short))
        against = message(condition("language", none_of=["de"]))
        nothing = await stub.Recommend(request(filter=against))
    assert list(slate.degradations) == degradations
    assert {*names(slate)} == {name for name in FREE if german(name)}
    assert names(similar)
    assert all(map(german, names(similar)))
    assert {*names(both)} == {
        name for name in names(slate) if numbers_of(ROWS[name]).get("duration", 1e9) <= 300
    }
    assert not nothing.items  # the site's rule and the request contradict each other
    assert nothing.filter_unmet
    assert not slate.filter_unmet
    if away != "candidate":
        held = sum(map(german, ROWS))
        assert slate.explanation.filter_share == pytest.approx(held / 40)
        assert applied(slate) == {"german": 40 - held}


@pytest.mark.parametrize("away", ["", "candidate"])
@pytest.mark.parametrize(
    "parts",
    [
        'conditions = [{ attribute = "licence", none_of = ["expired"] }]',
        'none = [{ conditions = [{ attribute = "language", min = 3 }] }]',  # it has labels of it
    ],
)
async def test_nothing_is_shown_if_the_release_lacks_an_attribute_of_a_filter_of_the_site(
    site: Site, parts: str, away: str
) -> None:
    text = f'[[filters]]\nname = "rights"\nregions = ["DE"]\n{parts}\n'
    here = pb.RequestContext(region="DE")
    about = pb.ExplainVideoRequest(video_id=FREE[0], request=request(context=here))
    async with site(text, away) as stub:
        slate = await stub.Recommend(request(context=here))
        asked = request(context=here, filter=message(condition("tag", any_of=["cat"])))
        filtered = await stub.Recommend(asked)
        similar = await stub.SimilarVideos(
            pb.SimilarVideosRequest(video_id="video-9", context=here)
        )
        told = await stub.ExplainVideo(about)
        elsewhere = await stub.Recommend(request(context=pb.RequestContext(region="AT")))
    empty: list[pb.RecommendResponse | pb.SimilarVideosResponse] = [slate, filtered, similar]
    for each in empty:
        assert list(each.degradations) == POPULAR
        assert not each.items
        assert each.filter_unmet
    assert told.lost_at == pb.LOST_AT_FILTER
    assert "names an attribute that the release doesn't declare" in told.reason
    assert elsewhere.items


async def test_a_boost_multiplies_the_final_score(
    site: Site, whole: RecommendationServiceAsyncStub
) -> None:
    text = (
        '[[boosts]]\nname = "cats"\nfactor = 0.25\n'
        'conditions = [{ attribute = "tag", any_of = ["cat"] }]\n'
        '[[boosts]]\nname = "unknown"\nfactor = 2.0\n'
        'conditions = [{ attribute = "nowhere", any_of = ["cat"] }]\n'
    )
    usual = {item.video_id: item.score for item in (await whole.Recommend(request())).items}
    async with site(text) as stub:
        slate = await stub.Recommend(request())
    boosted = {item.video_id: item.score for item in slate.items}
    assert boosted.keys() == usual.keys()
    cats = {name for name in usual if "tag=cat" in labels(name, "tag")}
    assert 0 < len(cats) < len(usual)
    for name, score in boosted.items():
        assert score == pytest.approx(usual[name] * (0.25 if name in cats else 1))
    assert applied(slate) == {"cats": len(cats), "unknown": 0}


@pytest.mark.parametrize("away", ["", "ranking", "candidate"])
async def test_a_pinned_video_has_its_position_on_the_first_page_alone(
    site: Site, away: str
) -> None:
    text = (
        f'[[pins]]\nname = "launch"\nvideo_id = "{PINNED}"\nposition = 3\n'
        f'[[pins]]\nname = "seen"\nvideo_id = "{WATCHED[0]}"\nposition = 1\n'
        '[[pins]]\nname = "gone"\nvideo_id = "nothing"\nposition = 2\n'
    )
    async with site(text, away) as stub:
        first = await stub.Recommend(request(page_size=5))
        second = await stub.Recommend(request(page_size=5, page_token=first.next_page_token))
        context = pb.RequestContext(region="DE")
        excluded = await stub.Recommend(request(excluded_video_ids=[PINNED], context=context))
    assert names(first)[2] == PINNED
    assert [item.position for item in first.items] == [1, 2, 3, 4, 5]
    assert applied(first) == {"seen": 0, "gone": 0, "launch": 1}
    assert len({*names(first), *names(second)}) == 10
    assert not applied(second)
    assert PINNED not in names(excluded)


async def test_a_filter_of_the_site_forbids_a_pinned_video_too(site: Site) -> None:
    other = next(name for name in FREE if not german(name))
    async with site(GERMAN + f'[[pins]]\nname = "p"\nvideo_id = "{other}"\nposition = 1\n') as stub:
        slate = await stub.Recommend(request())
    assert other not in names(slate)
    assert applied(slate)["p"] == 0


async def test_a_pinned_video_that_no_source_finds_is_ranked_like_the_others(
    site: Site, whole: RecommendationServiceAsyncStub
) -> None:
    last = names(await whole.Recommend(request()))[-1]
    text = f'[[pins]]\nname = "last"\nvideo_id = "{last}"\nposition = 1\n'
    async with site(text, candidates=10) as stub:
        slate = await stub.Recommend(request(page_size=5))
    assert names(slate)[0] == last
    assert slate.items[0].task_scores.watch > 0


@pytest.mark.parametrize("away", ["", "candidate"])
@pytest.mark.parametrize("attribute", ["creator", "tag"])
async def test_a_page_has_no_more_videos_with_a_label_than_its_cap(
    site: Site, attribute: str, away: str
) -> None:
    text = f'[[caps]]\nname = "two"\nattribute = "{attribute}"\nmax = 2\n'
    async with site(text, away) as stub:
        slate = await stub.Recommend(request())
    counts = Counter(label for name in names(slate) for label in labels(name, attribute))
    assert counts
    assert max(counts.values()) == 2
    left = [name for name in FREE if name not in names(slate)]
    for name in left:  # each would have been one too many
        assert any(counts[label] == 2 for label in labels(name, attribute))
    if not away:
        assert applied(slate) == {"two": len(left)}


@pytest.mark.parametrize("away", ["", "candidate"])
async def test_a_cap_holds_across_the_pages_of_a_slate(site: Site, away: str) -> None:
    text = '[[caps]]\nname = "two"\nattribute = "creator"\nmax = 2\n'
    async with site(text, away) as stub:
        page, shown = request(page_size=2), list[str]()
        while True:
            slate = await stub.Recommend(page)
            shown += names(slate)
            if not slate.next_page_token:
                break
            page.page_token = slate.next_page_token
    counts = Counter(label for name in shown for label in labels(name, "creator"))
    assert len(shown) > 4
    assert max(counts.values()) == 2
    for name in {*FREE} - {*shown}:
        assert all(counts[label] == 2 for label in labels(name, "creator"))


async def test_a_cap_of_some_labels_leaves_the_others(
    site: Site, whole: RecommendationServiceAsyncStub
) -> None:
    usual = names(await whole.Recommend(request()))
    text = '[[caps]]\nname = "cats"\nattribute = "tag"\nvalues = ["cat", "none such"]\nmax = 1\n'
    async with site(text) as stub:
        capped = names(await stub.Recommend(request()))
    cats = [name for name in usual if "tag=cat" in labels(name, "tag")]
    assert {*capped} == {*usual} - {*cats} | {name for name in capped if name in cats}
    assert sum(name in cats for name in capped) == 1


@pytest.mark.parametrize(
    ("change", "degradations"),
    [
        (lambda answer: answer.ClearField("filtered"), POPULAR),
        (lambda answer: answer.rules.factors.append(2.0), POPULAR),
        (lambda answer: answer.ClearField("rules"), []),
    ],
    ids=["it applies no filter", "its columns don't fit", "it knows no other rules"],
)
async def test_a_pod_is_believed_only_if_it_applies_the_filters_of_the_site(
    site: Site,
    change: Callable[[Any], object],
    degradations: list[int],
) -> None:
    text = (
        GERMAN + '[[caps]]\nname = "two"\nattribute = "creator"\nmax = 40\n'
        '[[boosts]]\nname = "b"\nfactor = 2\nconditions = [{ attribute = "duration", max = 9 }]\n'
    )
    relay = Relay(site.chain.candidate, change=change)
    async with relaying(relay) as candidate, site(text, candidate=candidate) as stub:
        slate = await stub.Recommend(request())
    assert list(slate.degradations) == degradations
    assert {*names(slate)} == {name for name in FREE if german(name)}


async def test_rules_that_change_between_two_pages_leave_the_token_valid(site: Site) -> None:
    async with site("") as stub:
        first = await stub.Recommend(request(page_size=5))
    async with site(GERMAN) as stub:
        page = request(page_size=5, page_token=first.next_page_token)
        second = await stub.Recommend(page)
    assert second.items
    assert all(map(german, names(second)))
    assert not {*names(first)} & {*names(second)}
