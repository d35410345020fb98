"""Numbers in documents that repeat a default are those of the code."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from vireo.ops.cli.release.promote import MAX_VIEWERS
from vireo.ops.cli.release.stored import gc
from vireo.ops.stack.settings import StackSettings
from vireo.server.gateway.query import DEFAULT_PAGE_SIZE
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.home import Home
from vireo.server.pod.pod import PodSettings
from vireo.server.releases.gate_measures import LIKENESS, MEASURES
from vireo.server.releases.manifest import CANDIDATES, Manifest
from vireo.training.config import RankingConfig
from vireo.training.profile import PROFILES, load_profile
from vireo_client import Client

CHECKOUT = Path(__file__).parents[2]
GATEWAY = {name: field.default for name, field in GatewaySettings.model_fields.items()}
POD = {name: field.default for name, field in PodSettings.model_fields.items()}
MARGINS = {name: measure.margin for name, measure in MEASURES.items()}


def default_of(function: object, parameter: str) -> object:
    assert callable(function)
    return inspect.signature(function).parameters[parameter].default


PHRASES = [
    ("bench/README.md", f"500 in the profile for large catalogues and {CANDIDATES} in all others"),
    ("docs/evaluation.md", f"(releases state {CANDIDATES} unless their profile"),
    ("docs/releases.md", f"`--max-viewers`: {MAX_VIEWERS:,} of them"),
    ("docs/releases.md", f"NDCG@10 | {MARGINS['ndcg_10']:.0%} of"),
    ("docs/releases.md", f"Recall@100 | {MARGINS['recall_100']:.0%} of"),
    ("docs/releases.md", f"ten places | {MARGINS['coverage_10']:.0%} of"),
    ("docs/releases.md", f"like probabilities | {MARGINS['like_log_loss']:.0%} of"),
    ("docs/releases.md", f"or likes, differ | {MARGINS['like_miscalibration']}:"),
    ("docs/releases.md", f"taking turns | {MARGINS['inference_p50']:.0%} of"),
    (
        "docs/releases.md",
        "gate_measures.py`): " + ", ".join(f"{b:g}" for _, b in LIKENESS.values()),
    ),
    ("docs/pods.md", f"By default that is {POD['keep_previous_seconds']:.0f} s"),
    ("clients/README.md", f"1 to 500; {DEFAULT_PAGE_SIZE} by default"),
    ("clients/README.md", f"included; {default_of(Client, 'timeout'):.0f} by default"),
    ("clients/python/README.md", f"included: {default_of(Client, 'timeout'):.0f} unless"),
    ("protos/vireo/v1/recommendation.proto", f"1 to 500; {DEFAULT_PAGE_SIZE} if absent"),
    ("README.md", f"127.0.0.1:{StackSettings.model_fields['edge_port'].default}"),
]


@pytest.mark.parametrize(("document", "phrase"), PHRASES)
def test_documented_defaults_equal_those_in_the_code(document: str, phrase: str) -> None:
    assert phrase in " ".join((CHECKOUT / document).read_text().split())


def test_gateways_request_the_releases_number_of_candidates_by_default() -> None:
    assert GATEWAY["candidates"] is None
    assert RankingConfig().candidates == Manifest.model_fields["candidates"].default == CANDIDATES


def test_profiles_rank_as_many_candidates_as_the_document_says() -> None:
    counts = {
        path.stem: load_profile(path.stem).ranking.candidates for path in PROFILES.glob("*.toml")
    }
    assert sorted(counts.values()) == [CANDIDATES] * (len(counts) - 1) + [500]


def test_gc_keeps_the_documented_releases() -> None:
    assert default_of(gc, "history") == 5
    assert default_of(gc, "grace_hours") == 24
    text = " ".join((CHECKOUT / "docs" / "releases.md").read_text().split())
    assert "the last five changes of each channel" in text
    assert "within a day (`--grace-hours`)" in text


def test_the_home_is_the_one_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIREO_HOME", raising=False)
    assert Home.current().logs == CHECKOUT / ".vireo" / "logs"
    assert "`.vireo/logs/`" in (CHECKOUT / "README.md").read_text()
