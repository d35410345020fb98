"""Studies of `vireo evaluate study`, and what training chooses by the same measures."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from vireo.server.errors import VireoError
from vireo.server.features.model_inputs import RETRIEVAL_FEATURES
from vireo.server.home import Home
from vireo.server.recommend.candidates import Candidates
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline, CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import MANIFEST_NAME, Quotas
from vireo.training.evaluation.choices import (
    CUTOFFS,
    FIT_VIEWERS,
    Point,
    Proposals,
    ScoredLists,
    diversity_curve,
    fit_quotas,
    worth_it,
)
from vireo.training.evaluation.choices import NAMES as SOURCES
from vireo.training.evaluation.systems import HeldOutWatches, last_held_out
from vireo.training.features.publication import of_the_past
from vireo.training.fit import with_quotas
from vireo.training.ranking.train import RankingTrainer
from vireo.training.ranking.training_set import RankingSet
from vireo.training.studies import Studies, ablate, ablation_names, check_names


@pytest.fixture(scope="module")
def studies(trained_home: Home) -> Studies:
    return Studies(trained_home, "trained", "quick", Console(quiet=True))


@pytest.fixture(scope="module")
def held_out(
    trained_home: Home, trained_watches: pd.DataFrame, release: CandidateRelease
) -> HeldOutWatches:
    repo = trained_home.features("trained")
    return last_held_out(trained_watches, repo, release.rows, "validation", FIT_VIEWERS)


@pytest.fixture(scope="module")
def proposals(release: CandidateRelease, held_out: HeldOutWatches) -> Proposals:
    return Proposals.gather(release, held_out)


def test_every_source_and_input_can_be_taken_out_whole(ranking_set: RankingSet) -> None:
    lists, without = ranking_set.watches, ablate(ranking_set, "ease").watches
    own = RETRIEVAL_FEATURES.index("from_ease")
    others = [n for n, name in enumerate(RETRIEVAL_FEATURES) if name[:5] == "from_" and n != own]
    assert not without.retrieval[..., [own, RETRIEVAL_FEATURES.index("ease")]].any()
    kept = lists.retrieval[..., others].any(-1)
    assert np.array_equal(without.rows >= 0, (lists.rows >= 0) & kept)
    hit = without.label >= 0
    assert np.array_equal(without.label[hit], lists.label[hit])
    assert (without.rows[hit, without.label[hit]] >= 0).all()
    for name, column in ablation_names().items():
        without = ablate(ranking_set, name).watches
        if column is not None and column[0] != "viewer_features":
            assert not getattr(without, column[0])[..., column[1]].any()
    assert not ablate(ranking_set, "history").watches.viewers.history_lengths.any()
    assert not ablate(ranking_set, "attributes").outcomes.viewers.attributes.any()
    with pytest.raises(VireoError, match=r"cannot leave out 'colour'.*co_watch"):
        check_names(["colour"])


def test_an_ablation_is_compared_with_the_whole_chain_and_its_models_are_reused(
    studies: Studies, trained_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = studies.ablations(["popular", "history"])
    assert set(found["without"]) == set(found["tests"]) == {"popular", "history"}
    # Trained again with the same settings and asked of the same lists, it is the released one.
    plain = studies.diversity()["points"][0]
    assert plain["strength"] == 0
    assert found["full"]["ndcg_10"] == pytest.approx(plain["ndcg_10"])
    report = trained_home.run("trained") / "report"
    chain = json.loads((report / "metrics.json").read_text())["chain"]
    chosen = studies.diversity()["chosen"]
    [released] = [each for each in studies.diversity()["points"] if each["strength"] == chosen]
    assert released["ndcg_10"] == pytest.approx(chain["ndcg_10"])
    for name, measures in found["without"].items():
        lost = found["tests"][name]["ndcg_10"]["value"]
        assert lost == pytest.approx(found["full"]["ndcg_10"] - measures["ndcg_10"])
    trained: list[str] = []
    epoch = RankingTrainer._epoch

    def counted(self: RankingTrainer, *arguments: object) -> tuple[float, float]:
        trained.append(self.checkpoints.folder.name)
        return epoch(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RankingTrainer, "_epoch", counted)
    more = studies.ablations(["popular", "video:like_rate"])
    assert set(trained) == {"video_like_rate"}
    assert more["full"] == found["full"]
    assert more["without"]["popular"] == found["without"]["popular"]


@pytest.mark.parametrize(
    ("curve", "chosen"),
    [
        ([(0, 0.2, 0), (0.1, 0.201, 0), (0.3, 0.1985, 0), (0.5, 0.197, 0), (0.7, 0.2, 0)], 0.3),
        ([(0, 0.2, 0.3), (0.1, 0.2, 0.299), (0.3, 0.2, 0.29)], 0.1),
        ([(0, 0.2, 0)], 0),
    ],
)
def test_the_chosen_strength_is_the_last_before_ndcg_or_hit_rate_lose_too_much(
    curve: list[tuple[float, float, float]], chosen: float
) -> None:
    assert worth_it([Point(*point, 0, 0) for point in curve], allowed=0.01) == chosen


def test_no_strength_beyond_the_first_that_costs_too_much_is_measured() -> None:
    measured = []

    def curve() -> Iterator[Point]:
        for strength, ndcg_10 in ((0.0, 0.2), (0.1, 0.2), (0.3, 0.1), (0.5, 0.2)):
            measured.append(strength)
            yield Point(strength, ndcg_10, 0, 0, 0)

    assert worth_it(curve()) == 0.1
    assert measured == [0.0, 0.1, 0.3]


def test_strength_trades_gain_for_distance() -> None:
    # Twelve of one kind score above eight that differ.
    vectors = np.concatenate([np.tile([[1.0, 0.0]], (12, 1)), np.eye(10)[2:, :2] + 1e-3])
    vectors = np.concatenate([vectors, np.vstack([np.zeros((12, 8)), np.eye(8)])], axis=1)
    scores = np.linspace(1, 0.5, 20, dtype=np.float32)[None]
    lists = ScoredLists(np.arange(20)[None], scores, np.array([1]))
    plain, diverse = diversity_curve(lists, vectors.astype(np.float32), [0.0, 5.0])
    assert plain.ndcg_10 > diverse.ndcg_10
    assert plain.intra_list_distance < diverse.intra_list_distance


def test_the_union_is_what_the_pipeline_retrieves_and_a_pool_what_any_source_has(
    release: CandidateRelease, held_out: HeldOutWatches, proposals: Proposals
) -> None:
    past, embargo = of_the_past(release)
    pipeline = CandidatePipeline(past, fail_open=False)
    expected = []
    for viewer, target in zip(held_out.viewers, held_out.targets.tolist(), strict=True):
        embargo.ask(viewer.asked_at, target)
        expected.append(target in pipeline.retrieve(CandidateQuery(viewer=viewer, count=20)).rows)
    assert proposals.merged(release.manifest.quotas, 20).tolist() == expected
    alone = proposals.merged(Quotas({"co_watch": 0, "ease": 0, "popular": 0, "fresh": 0}), 20)
    assert alone.tolist() == proposals.alone("two_tower", 20).tolist()
    found, size = proposals.pooled(5)
    any_source = np.any([proposals.alone(name, 5) for name in SOURCES], axis=0)
    assert found.tolist() == any_source.tolist()
    assert 5 < size <= 5 * len(SOURCES)


def test_sources_are_studied_on_both_parts_and_quotas_shown_best_first(
    studies: Studies, trained_home: Home
) -> None:
    found = studies.sources()
    path = trained_home.run("trained") / "report" / "sources.json"
    assert json.loads(path.read_text()) == found
    for part in (found, found["validation"]):
        assert set(part["alone"]) == set(part["without"]) == set(SOURCES)
        assert set(part["union"]) == set(part["pooled"]) == {str(count) for count in CUTOFFS}
    recalls = [one["recall"] for one in studies.quotas()]
    assert recalls == sorted(recalls, reverse=True)


def made(**places: int | None) -> Proposals:
    """100 viewers, each with the target at a place of some sources' lists of 100, from 0."""

    def listed(start: int, place: int | None) -> Candidates:
        rows = np.arange(start, start + 100)
        if place is not None:
            rows[place] = 5000
        return Candidates(rows, rows, np.ones(100, np.uint32))

    proposed = {name: listed(100 * n, places.get(name)) for n, name in enumerate(SOURCES)}
    return Proposals(Quotas(), (proposed,) * 100, np.full(100, 5000))


def test_sources_have_the_quotas_that_add_to_recall_and_none_if_they_add_nothing() -> None:
    nothing = {**dict.fromkeys(Quotas().root, 0), "fresh": 0.02}
    first, *_, last = fit_quotas(made(ease=12, co_watch=99), 100)
    assert first == {**nothing, "recall": 0}
    assert last == {**nothing, "ease": 0.2, "recall": 1}
    assert fit_quotas(made(two_tower=97, ease=0, popular=1), 100) == [{**nothing, "recall": 1}]
    assert len(fit_quotas(made(), 100)) == 1
    # Towers that find nothing leave their places to the others.
    some = [made(ease=place) for place in range(0, 65, 5)]
    some += [made(co_watch=place) for place in range(0, 30, 5)]
    proposed = tuple(own for each in some for own in each.proposed)
    targets = np.concatenate([each.targets for each in some])
    last = fit_quotas(Proposals(Quotas(), proposed, targets), 100)[-1]
    assert last == {**nothing, "co_watch": 0.3, "ease": 0.65, "recall": 1}


def test_training_fits_the_quotas_to_validation(
    trained_home: Home,
    trained_watches: pd.DataFrame,
    release: CandidateRelease,
    held_out: HeldOutWatches,
    tmp_path: Path,
) -> None:
    repo, output = trained_home.features("trained"), io.StringIO()
    console = Console(file=output, width=300)
    staged = replace(release, folder=Path(shutil.copytree(release.folder, tmp_path / "staged")))
    found = with_quotas(staged, trained_watches, repo, 20, console)
    fitted = fit_quotas(Proposals.gather(release, held_out, 20), 20)[-1]
    assert found.manifest.quotas.root == {n: fitted[n] for n in SOURCES if n in fitted}
    written = json.loads((staged.folder / MANIFEST_NAME).read_text())
    assert written["quotas"] == found.manifest.quotas.root
    assert f"20 candidates hold {fitted['recall']:.1%}" in output.getvalue()
    # A catalogue that is retrieved as a whole needs none.
    assert with_quotas(release, trained_watches, repo, len(release.keys), console) is release
