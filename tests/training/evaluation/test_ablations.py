from __future__ import annotations

import numpy as np
import pytest

from vireo.server.errors import VireoError
from vireo.server.features.ranking_inputs import RETRIEVAL_FEATURES
from vireo.training.evaluation.ablations import ablate, ablation_names, check_names
from vireo.training.evaluation.studies import Studies
from vireo.training.ranking.train import RankingTrainer
from vireo.training.ranking.training_set import RankingSet


def test_a_source_is_taken_out_whole(ranking_set: RankingSet) -> None:
    lists = ranking_set.watches
    without = ablate(ranking_set, "ease").watches
    own = RETRIEVAL_FEATURES.index("from_ease")
    others = [n for n, name in enumerate(RETRIEVAL_FEATURES) if name[:5] == "from_" and n != own]
    assert not without.retrieval[..., [own, RETRIEVAL_FEATURES.index("ease")]].any()
    kept = lists.retrieval[..., others].any(-1)
    assert np.array_equal(without.rows >= 0, (lists.rows >= 0) & kept)
    hit = without.label >= 0
    assert np.array_equal(without.label[hit], lists.label[hit])
    assert (without.rows[hit, without.label[hit]] >= 0).all()


def test_every_input_can_be_taken_out(ranking_set: RankingSet) -> None:
    for name, column in ablation_names().items():
        without = ablate(ranking_set, name)
        if column is not None and column.table != "viewer_features":
            assert not getattr(without.watches, column.table)[..., column.place].any()
    assert not ablate(ranking_set, "history").watches.viewers.history_lengths.any()
    assert not ablate(ranking_set, "attributes").outcomes.viewers.attributes.any()
    with pytest.raises(VireoError, match=r"cannot leave out 'colour'.*co_watch"):
        check_names(["colour"])


def test_an_ablation_is_compared_with_the_whole_chain(studies: Studies) -> None:
    found = studies.ablations(["popular", "history"])
    assert set(found["without"]) == set(found["tests"]) == {"popular", "history"}
    # Trained again with the same settings and asked of the same lists, it is the released one.
    plain = studies.diversity()["points"][0]
    assert plain["strength"] == 0
    assert found["full"]["ndcg_10"] == pytest.approx(plain["ndcg_10"])
    for name, measures in found["without"].items():
        lost = found["tests"][name]["ndcg_10"]["value"]
        assert lost == pytest.approx(found["full"]["ndcg_10"] - measures["ndcg_10"])


def test_models_trained_for_a_study_are_reused(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    epoch = RankingTrainer._epoch

    def counted(self: RankingTrainer, *arguments: object) -> tuple[float, float]:
        trained.append(self.checkpoints.folder.name)
        return epoch(self, *arguments)  # type: ignore[arg-type]

    first = studies.ablations(["ease"])
    monkeypatch.setattr(RankingTrainer, "_epoch", counted)
    more = studies.ablations(["ease", "video:like_rate"])
    assert set(trained) == {"video_like_rate"}
    assert more["full"] == first["full"]
    assert more["without"]["ease"] == first["without"]["ease"]
