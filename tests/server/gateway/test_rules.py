"""The site's rules apply to every slate: by a file, which is followed."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.builders.attributes import labels_of, numbers_of
from tests.builders.chain import NOWHERE, Chain
from tests.builders.filters import condition, message
from tests.builders.relay import Relay, relaying
from tests.builders.releases import CREATORS, video_ids
from tests.builders.tiny_home import VIEWER, WATCHED
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.rule_tables import BadRulesError
from vireo.server.gateway.rules import SiteRules, parse_rules
from vireo.server.gateway.rules_file import LOADS, VALID, RulesFile
from vireo.v1 import recommendation_pb2 as pb
from vireo.v1 import viewer_pb2

if TYPE_CHECKING:
    from vireo.v1.recommendation_pb2_grpc import RecommendationServiceAsyncStub

ROWS = {name: row for row, name in enumerate(video_ids(40))}
KEY = "k1:MDEyMzQ1Njc4OWFiY2RlZg=="
FREE = [name for name in ROWS if name not in WATCHED]
PINNED = FREE[-1]
GERMAN = (
    '[[filters]]\nname = "german"\nconditions = [{ attribute = "language", any_of = ["de"] }]\n'
)
POPULAR = [viewer_pb2.DEGRADATION_POPULAR_FALLBACK]
SKIPPED = [viewer_pb2.DEGRADATION_RANKING_SKIPPED]


def put(file: Path, text: str | None) -> None:
    """Write a file of rules, or remove it."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


def labels(name: str, attribute: str) -> set[str]:
    found = labels_of(ROWS[name], CREATORS)
    return {each for each in found if each.startswith(f"{attribute}=")}


def german(name: str) -> bool:
    return "language=de" in labels(name, "language")


def names(slate: pb.RecommendResponse | pb.SimilarVideosResponse) -> list[str]:
    return [item.video_id for item in slate.items]


def request(**fields: Any) -> pb.RecommendRequest:
    return pb.RecommendRequest(**{"viewer_id": VIEWER, "page_size": 40, "explain": True, **fields})


def applied(slate: pb.RecommendResponse) -> dict[str, int]:
    return {rule.name: rule.count for rule in slate.explanation.rules}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


@pytest.fixture
def pods(
    chain: Chain,
) -> Any:
    def started(
        file: Path, candidate: str = chain.candidate, ranking: str = chain.ranking, **changes: Any
    ) -> Any:
        return chain.gateway(candidate=candidate, ranking=ranking, rules=file, **changes)

    return started


@pytest.mark.parametrize(
    ("broken", "degradations"), [("", []), ("ranking", SKIPPED), ("candidate", POPULAR)]
)
async def test_a_filter_of_the_site_holds_in_whole_and_degraded_slates(
    pods: Any, file: Path, broken: str, degradations: list[int]
) -> None:
    put(file, GERMAN)
    async with pods(file, **({broken: NOWHERE} if broken else {})) as stub:
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
    if broken != "candidate":
        held = sum(map(german, ROWS))
        assert slate.explanation.filter_share == pytest.approx(held / 40)
        assert applied(slate) == {"german": 40 - held}


@pytest.mark.parametrize("pods_away", [False, True])
@pytest.mark.parametrize(
    "parts",
    [
        'conditions = [{ attribute = "licence", none_of = ["expired"] }]',
        'none = [{ conditions = [{ attribute = "licence", any_of = ["expired"] }] }]',
        'none = [{ conditions = [{ attribute = "licence_ends", max = 1700000000 }] }]',
        'any = [{ conditions = [{ attribute = "tag", any_of = ["cat"] }] },'
        ' { conditions = [{ attribute = "licence", none_of = ["expired"] }] }]',
        # The release has labels of the first, and a number of the second.
        'none = [{ conditions = [{ attribute = "language", min = 3 }] }]',
        'conditions = [{ attribute = "age_rating", none_of = ["18"] }]',
    ],
)
async def test_nothing_is_shown_if_the_release_lacks_an_attribute_of_a_filter_of_the_site(
    pods: Any, file: Path, parts: str, pods_away: bool
) -> None:
    put(file, f'[[filters]]\nname = "rights"\nregions = ["DE"]\n{parts}\n')
    here = pb.RequestContext(region="DE")
    about = pb.ExplainVideoRequest(video_id=FREE[0], request=request(context=here))
    async with pods(file, **({"candidate": NOWHERE} if pods_away else {})) as stub:
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


async def test_rules_apply_by_surface_and_region(pods: Any, file: Path) -> None:
    put(file, GERMAN.replace('"german"', '"german"\nregions = ["at", "DE"]\nsurfaces = ["home"]'))
    async with pods(file) as stub:

        async def all_german(region: str, **fields: Any) -> bool:
            context = pb.RequestContext(region=region)
            return all(map(german, names(await stub.Recommend(request(context=context, **fields)))))

        next_up = {"surface": pb.SURFACE_UP_NEXT, "seed_video_id": "video-9"}
        assert await all_german("DE")
        assert await all_german("At")
        assert not await all_german("DE", **next_up)
        assert not await all_german("CH")
        assert not await all_german("")


async def test_a_boost_multiplies_the_final_score(
    pods: Any, file: Path, whole: RecommendationServiceAsyncStub
) -> None:
    put(
        file,
        '[[boosts]]\nname = "cats"\nfactor = 0.25\n'
        'conditions = [{ attribute = "tag", any_of = ["cat"] }]\n'
        '[[boosts]]\nname = "unknown"\nfactor = 2.0\n'
        'conditions = [{ attribute = "nowhere", any_of = ["cat"] }]\n',
    )
    usual = {item.video_id: item.score for item in (await whole.Recommend(request())).items}
    async with pods(file) as stub:
        slate = await stub.Recommend(request())
    boosted = {item.video_id: item.score for item in slate.items}
    assert boosted.keys() == usual.keys()
    cats = {name for name in usual if "tag=cat" in labels(name, "tag")}
    assert 0 < len(cats) < len(usual)
    for name, score in boosted.items():
        assert score == pytest.approx(usual[name] * (0.25 if name in cats else 1))
    assert applied(slate) == {"cats": len(cats), "unknown": 0}


@pytest.mark.parametrize("broken", ["", "ranking", "candidate"])
async def test_a_pinned_video_has_its_position_on_the_first_page_alone(
    pods: Any, file: Path, broken: str
) -> None:
    put(
        file,
        f'[[pins]]\nname = "launch"\nvideo_id = "{PINNED}"\nposition = 3\n'
        f'[[pins]]\nname = "seen"\nvideo_id = "{WATCHED[0]}"\nposition = 1\n'
        '[[pins]]\nname = "gone"\nvideo_id = "nothing"\nposition = 2\n',
    )
    changes = {"page_token_keys": KEY, **({broken: NOWHERE} if broken else {})}
    async with pods(file, **changes) as stub:
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


async def test_a_filter_of_the_site_forbids_a_pinned_video_too(pods: Any, file: Path) -> None:
    other = next(name for name in FREE if not german(name))
    put(file, GERMAN + f'[[pins]]\nname = "p"\nvideo_id = "{other}"\nposition = 1\n')
    async with pods(file) as stub:
        slate = await stub.Recommend(request())
    assert other not in names(slate)
    assert applied(slate)["p"] == 0


async def test_a_pinned_video_that_no_source_finds_is_ranked_like_the_others(
    pods: Any, file: Path, whole: RecommendationServiceAsyncStub
) -> None:
    last = names(await whole.Recommend(request()))[-1]
    put(file, f'[[pins]]\nname = "last"\nvideo_id = "{last}"\nposition = 1\n')
    async with pods(file, candidates=10) as stub:
        slate = await stub.Recommend(request(page_size=5))
    assert names(slate)[0] == last
    assert slate.items[0].task_scores.watch > 0


@pytest.mark.parametrize("broken", ["", "candidate"])
@pytest.mark.parametrize("attribute", ["creator", "tag"])
async def test_a_page_has_no_more_videos_with_a_label_than_its_cap(
    pods: Any, file: Path, attribute: str, broken: str
) -> None:
    put(file, f'[[caps]]\nname = "two"\nattribute = "{attribute}"\nmax = 2\n')
    async with pods(file, **({broken: NOWHERE} if broken else {})) as stub:
        slate = await stub.Recommend(request())
    counts = Counter(label for name in names(slate) for label in labels(name, attribute))
    assert counts
    assert max(counts.values()) == 2
    left = [name for name in FREE if name not in names(slate)]
    for name in left:  # each would have been one too many
        assert any(counts[label] == 2 for label in labels(name, attribute))
    if not broken:
        assert applied(slate) == {"two": len(left)}


async def test_a_cap_of_some_labels_leaves_the_others(
    pods: Any, file: Path, whole: RecommendationServiceAsyncStub
) -> None:
    usual = names(await whole.Recommend(request()))
    put(
        file, '[[caps]]\nname = "cats"\nattribute = "tag"\nvalues = ["cat", "none such"]\nmax = 1\n'
    )
    async with pods(file) as stub:
        capped = names(await stub.Recommend(request()))
    cats = [name for name in usual if "tag=cat" in labels(name, "tag")]
    assert {*capped} == {*usual} - {*cats} | {name for name in capped if name in cats}
    assert sum(name in cats for name in capped) == 1


async def test_a_pod_that_does_not_apply_the_sites_filters_is_not_believed(
    pods: Any, file: Path, candidate_target: str
) -> None:
    put(file, GERMAN)
    relay = Relay(candidate_target, change=lambda answer: answer.ClearField("filtered"))
    async with relaying(relay) as candidate, pods(file, candidate=candidate) as stub:
        slate = await stub.Recommend(request())
    assert list(slate.degradations) == POPULAR
    assert all(map(german, names(slate)))


async def test_a_pod_that_knows_no_rules_but_applies_filters_is_used(
    pods: Any, file: Path, candidate_target: str
) -> None:
    put(
        file,
        GERMAN + '[[caps]]\nname = "two"\nattribute = "creator"\nmax = 2\n'
        '[[boosts]]\nname = "b"\nfactor = 2\nconditions = [{ attribute = "duration", max = 9 }]\n',
    )
    relay = Relay(candidate_target, change=lambda answer: answer.ClearField("rules"))
    async with relaying(relay) as candidate, pods(file, candidate=candidate) as stub:
        slate = await stub.Recommend(request())
    assert not slate.degradations
    assert {*names(slate)} == {name for name in FREE if german(name)}


async def test_columns_for_rules_that_do_not_fit_are_no_answer(
    pods: Any, file: Path, candidate_target: str
) -> None:
    put(file, '[[caps]]\nname = "two"\nattribute = "creator"\nmax = 2\n')

    def change(answer: Any) -> None:
        answer.rules.factors.append(2.0)

    relay = Relay(candidate_target, change=change)
    async with relaying(relay) as candidate, pods(file, candidate=candidate) as stub:
        slate = await stub.Recommend(request())
    assert list(slate.degradations) == POPULAR


async def test_rules_that_change_between_two_pages_leave_the_token_valid(
    pods: Any, file: Path
) -> None:
    put(file, "")
    async with pods(file, page_token_keys=KEY) as stub:
        first = await stub.Recommend(request(page_size=5))
    put(file, GERMAN)
    async with pods(file, page_token_keys=KEY) as stub:
        page = request(page_size=5, page_token=first.next_page_token)
        second = await stub.Recommend(page)
    assert second.items
    assert all(map(german, names(second)))
    assert not {*names(first)} & {*names(second)}


def calls_to_parse(text: str) -> int:
    """How many functions, of C too, are called to parse rules: no busy machine changes it."""
    counts = Counter[str]()
    sys.setprofile(lambda _, event, __: counts.update([event]))
    try:
        with suppress(BadRulesError):
            parse_rules(text.encode())
    finally:
        sys.setprofile(None)
    return counts["call"] + counts["c_call"]


@pytest.mark.parametrize(
    "rule",
    [
        'regions = ["r{0}"]\nvideo_id = "v{0}"\nposition = 1',
        'regions = ["r{0}", "all"]\nvideo_id = "v{0}"\nposition = {1}',
        'regions = ["r{0}"]\nvideo_id = "v"\nposition = 1\nwrong = 1',
    ],
)
def test_twice_as_many_rules_take_twice_as_long_to_read(rule: str) -> None:
    def rules(count: int) -> str:
        named = (f'[[pins]]\nname = "{{0}}"\n{rule}\n'.format(n, 1 + n % 64) for n in range(count))
        return "".join(named)

    assert calls_to_parse(rules(400)) < 2.5 * calls_to_parse(rules(200))


async def test_a_bad_version_of_the_file_changes_nothing(file: Path, release: Path) -> None:
    put(file, GERMAN)
    rules = RulesFile(file)
    before = rules.rules
    refused = LOADS.labels("refused")._value.get()
    for bad in ("[[filters", GERMAN.replace("any_of", "any"), "x" * (2 << 20)):
        put(file, bad)
        await rules.look()
        await rules.look()
        assert rules.rules is before
        assert VALID._value.get() == 0
    assert LOADS.labels("refused")._value.get() == refused + 3  # each is told once
    put(file, None)
    await rules.look()
    assert rules.rules is before
    put(file, "")
    await rules.look()
    assert len(rules.rules) == 0
    assert VALID._value.get() == 1


async def test_rules_that_the_release_does_not_fit_wait_for_one_that_does(
    file: Path, release: Path, features: Path
) -> None:
    put(file, "")
    rules = RulesFile(file)
    loaded = await asyncio.to_thread(GatewayRelease.load, release, features, 1.0)
    rules.serving = lambda: loaded
    put(file, GERMAN.replace("language", "dialect"))
    await rules.look()
    assert len(rules.rules) == 0
    assert VALID._value.get() == 0
    rules.serving = lambda: None
    await rules.look()
    assert len(rules.rules) == 1


async def test_a_file_whose_volume_hangs_holds_nothing_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(file, GERMAN)
    rules, hangs = RulesFile(file), threading.Event()
    monkeypatch.setattr("vireo.server.gateway.rules_file._version", lambda _: hangs.wait(15))
    looking = asyncio.ensure_future(rules.look())
    try:
        await asyncio.sleep(0.05)
        assert not looking.done()
        assert len(rules.rules) == 1
    finally:
        hangs.set()
        await looking


def test_a_gateway_does_not_start_without_the_rules_that_a_site_counts_on(file: Path) -> None:
    with pytest.raises(BadRulesError, match="can't be read"):
        RulesFile(file)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[[filter]]", ["[[filter]]: there is no such table"]),
        (
            '[[boosts]]\nname = "own"\nfactor = 200',
            ["[[boosts]] number 1 (own): factor: Input should be less than or equal to 100"],
        ),
        (
            '[[boosts]]\nname = "own"\nfactor = nan\nconditions = [{ attribute = "tag" }]',
            ["[[boosts]] number 1 (own): factor: Input should be"],
        ),
        ('[[pins]]\nname = "p"\nposition = "1"', ["(p): video_id: is missing", "(p): position: "]),
        (
            '[[filters]]\nname = "f"\nconditions = [{ attribute = "tag" }]',
            ["[[filters]] number 1 (f): conditions[0]: must have values or a bound"],
        ),
        ('[[filters]]\nname = "f"', ["[[filters]] number 1 (f): must have a condition"]),
        (
            '[[filters]]\nname = "f"\nconditions = [{ attribute = "duration", min = 9, max = 1 }]',
            ["conditions[0]: duration must be at least 9 and at most 1"],
        ),
        (
            '[[filters]]\nname = "f"\nconditions = [{ attribute = "tag", some_of = ["a"] }]',
            ["[[filters]] number 1 (f): conditions[0].some_of: there is no such key"],
        ),
        (
            '[[caps]]\nname = "c"\nattribute = "tag"\nmax = 1\nregions = ["Somewhere far away"]',
            ["(c): regions[0]: must have at most 16 bytes"],
        ),
        (
            '[[caps]]\nname = "c"\nattribute = "tag"\nmax = 1\n'
            '[[new_videos]]\nname = "c"\nshare = 0.1',
            ["[[new_videos]] number 1 (c): name: is that of [[caps]] number 1 too"],
        ),
        (
            '[[pins]]\nname = "p"\nvideo_id = "a"\nposition = 1\nregions = ["DE"]\n'
            '[[pins]]\nname = "q"\nvideo_id = "b"\nposition = 1',
            ["[[pins]] number 2 (q): position: is that of p on home in DE"],
        ),
        (
            "\n".join(f'[[caps]]\nname = "c{n}"\nattribute = "tag"\nmax = 1' for n in range(17)),
            ["[[caps]]: 17 apply on home, more than 16"],
        ),
        (
            "".join(
                f'[[caps]]\nname = "c{n}"\nattribute = "tag"\nmax = 1\n'
                f"regions = {[f'{n}-{m}' for m in range(501)]}\n"
                for n in range(2)
            ),
            ["[[caps]] number 2 (c1): regions[499]: the rules name more than 1,000 regions"],
        ),
        ("a = [", ["isn't TOML: "]),
    ],
)
def test_errors_name_table_and_key(text: str, problems: list[str]) -> None:
    with pytest.raises(BadRulesError) as raised:
        parse_rules(text.encode())
    told = "\n".join(raised.value.problems)
    for each in problems:
        assert each in told


def test_a_publication_time_may_be_a_time_of_toml() -> None:
    rules = parse_rules(
        b'[[filters]]\nname = "f"\n'
        b'conditions = [{ attribute = "published", min = 2026-01-01T00:00:00Z }]\n'
    )
    [found] = active(rules).message.filters
    assert found.conditions[0].min == 1767225600
    with pytest.raises(BadRulesError, match="must say its zone"):
        parse_rules(
            b'[[filters]]\nname = "f"\n'
            b'conditions = [{ attribute = "published", min = 2026-01-01T00:00:00 }]\n'
        )


def active(rules: SiteRules, **of: Any) -> Any:
    return rules.active(**{"up_next": False, "region": "", "first_page": True, **of})


def test_a_region_may_be_that_of_requests_without_one() -> None:
    rules = parse_rules(
        b'[[new_videos]]\nname = "a"\nshare = 0.1\nregions = ["DE", ""]\n'
        b'[[new_videos]]\nname = "b"\nshare = 0.2\nregions = ["DE"]\n'
    )
    assert active(rules).message.new_share == pytest.approx(0.1)
    assert active(rules, region=" de").message.new_share == pytest.approx(0.2)
    assert active(rules, region="AT") is None


def test_a_file_may_name_a_thousand_regions_however_often() -> None:
    lower, upper = ([f"{letter}{n}" for n in range(1_000)] for letter in "rR")
    text = (
        f'[[new_videos]]\nname = "a"\nshare = 0.1\nregions = {lower}\n'
        f'[[new_videos]]\nname = "b"\nshare = 0.2\nregions = {upper}\n'
    )
    rules = parse_rules(text.encode())
    assert active(rules, region="R999").message.new_share == pytest.approx(0.2)


def test_without_rules_nothing_is_sent_to_pods() -> None:
    assert active(parse_rules(b"")) is None


def test_the_example_of_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    rules = parse_rules(page.split("```toml\n")[1].split("```")[0].encode())
    assert len(rules) == 9
    found = active(rules, region="de")
    assert [name for name, _ in found.applied][:2] == [
        "rights-in-dach",
        "adults-only-after-a-choice",
    ]
    assert found.pinned == {1: "premiere-1"}
