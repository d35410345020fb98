from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from vireo.server.errors import VireoError
from vireo.server.releases.manifest import FeatureSchema, Manifest, ScoreWeights
from vireo.training.comparison import compare
from vireo.training.evaluation import report as files
from vireo.training.evaluation.baselines import Setting
from vireo.training.evaluation.report import render_page, ticks, write_json, write_page
from vireo.training.evaluation.run import recall_curves
from vireo.training.evaluation.tuning import (
    BaselineSettings,
    Trial,
    TunedBaselines,
    write_settings,
)

MANIFEST = Manifest(
    release_id="r-1",
    created_at=datetime(2024, 1, 1, tzinfo=UTC),
    dataset="films",
    code_commit="unknown",
    data_fingerprint="abc",
    holdout="last",
    feature_schema=FeatureSchema.ours(history_limit=5, vector_size=4),
    score_weights=ScoreWeights(),
    metrics={},
    files={},
).model_copy(update={"dataset": "films & more"})  # no manifest is read with such a name
MEASURES = {"hr_10": 0.24, "ndcg_10": 0.13, "recall_50": 0.5, "recall_100": 0.7, "coverage_10": 0.4}
RANKS = {name: np.arange(40) * (place + 1) for place, name in enumerate(("chain", "ease"))}


REPORTS = Path(__file__).parents[3] / "bench" / "report"
"""Reports of trainings on real data sets."""


class Page(HTMLParser):
    """Reads a page, and checks that its elements are closed in order and its ids unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        assert len(set(self.ids)) == len(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        assert len(known) == len(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name == "href" and value]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Pass over an element of a figure that has no content."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def figures(page: str) -> list[ElementTree.Element]:
    """Return the figures of a page; raise ParseError if one isn't well-formed."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def write_small_report(folder: Path) -> None:
    metrics = {"viewers": 40, "videos": 90, "ease": MEASURES, "chain": MEASURES}
    write_json(folder, files.METRICS, metrics)
    write_json(folder, files.RECALL, recall_curves(RANKS, 90))
    write_json(folder, files.COMPARISON, compare(RANKS))


def test_the_page_needs_no_other_file_and_names_what_it_is_made_from(tmp_path: Path) -> None:
    write_small_report(tmp_path)
    page = render_page(tmp_path, MANIFEST)
    assert "films &amp; more" in page
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "<link" not in page
    assert "From <code>metrics.json, comparison.json</code>" in page
    assert page == render_page(tmp_path, MANIFEST), "the same report, the same page"
    for study in ("baselines", "ablations", "diversity", "sources", "cold-start"):
        assert f"<code>{study.replace('-', '_')}.json</code>" in page
        assert f"study {study}" in page, "the command that measures what is missing"
    assert "python -m bench.seeds --data films &amp; more" in page


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m"])
def test_the_page_of_a_real_report_is_valid_and_shows_all_of_it(name: str) -> None:
    text = render_page(REPORTS / name, MANIFEST)
    page = Page(text)
    assert {link.removeprefix("#") for link in page.links} <= {*page.ids}
    missing = re.findall(r'class="missing">.*? makes <code>(.*?)</code>', text)
    assert missing == ["seeds.json"]
    for svg in figures(text):
        *_, width, height = map(float, svg.attrib["viewBox"].split())
        marks = [each for each in svg if each.tag in ("rect", "circle", "polyline")]
        assert marks
        for mark in marks:
            at = mark.attrib
            places = [each.split(",") for each in at.get("points", "").split()]
            places += [[at.get("x", at.get("cx", "0")), at.get("y", at.get("cy", "0"))]]
            assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in places)
    assert not re.search(r">(nan|None|inf)<|{[{%]", text)


def test_ticks_are_round_and_enclose_all_values() -> None:
    assert ticks(0, 0.267) == [0, 0.1, 0.2, 0.3]
    assert ticks(0.13, 0.147) == [0.13, 0.135, 0.14, 0.145, 0.15]
    assert ticks(1, 16) == [0, 5, 10, 15, 20]
    assert ticks(5, 5) == [4, 6]
    assert ticks(0, 0) == [0, 0.5]
    for low, high in ((0, 3e-6), (-1.2, 7), (6.9, 1000), (0, 40), (0, 4e9)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        assert found[0] <= low <= high <= found[-1]


def test_every_study_has_its_section(tmp_path: Path) -> None:
    write_small_report(tmp_path)
    by_cutoff = {"100": 0.5, "200": 0.6, "500": 0.9}
    sources: dict[str, Any] = {
        "alone": {"ease": by_cutoff},
        "union": by_cutoff,
        "without": {"ease": by_cutoff},
    }
    sources["pooled"] = {"100": {"recall": 0.7, "videos": 123.4}}
    write_json(tmp_path, files.SOURCES, sources)
    ablated = {
        "full": MEASURES,
        "without": {"co_watch": {**MEASURES, "ndcg_10": 0.117}},
        "tests": {"co_watch": {"p_holm": 0.0123}},
    }
    write_json(tmp_path, files.ABLATIONS, ablated)
    point = {"strength": 0.2, "ndcg_10": 0.1, "hr_10": 0.2, "intra_list_distance": 0.5}
    curve = {"points": [{**point, "coverage": 0.3}], "chosen": 0.2}
    write_json(tmp_path, files.DIVERSITY, curve)
    cold = {"cases": 1234, "systems": {"vireo": MEASURES, "random": MEASURES}}
    groups = {"viewers": {"2-5": cold}, "late_viewers": {"2-5": cold}, "videos": cold}
    write_json(tmp_path, files.COLD_START, groups)
    one = {
        "seed": 7,
        "systems": {"served": MEASURES},
        "ranker": {"watch_predicted_over_observed": 0.987},
        "train_seconds": 125.0,
        "train_cpu_seconds": 183.0,
    }
    mean = {name: {"mean": value, "low": value - 0.01} for name, value in MEASURES.items()}
    seeds = {"seeds": [one], "mean": {"served": mean}, "train_seconds": {"mean": 125.0}}
    seeds["train_cpu_seconds"] = {"mean": 183.0}
    seeds["ranker"] = {"watch_predicted_over_observed": {"mean": 0.9876, "low": 0.9753}}
    write_json(tmp_path, "seeds.json", seeds)

    rates = {f"{task}_ece": 0.0007 for task in ("watch", "like")}
    rates["watch_predicted_over_observed"] = 0.644
    rates |= {f"watch_predicted_over_observed_{end}": 0.6 for end in ("low", "high")}
    point = {"predicted": 0.002, "observed": 0.003, "n": 9}
    bins = {"watch": [point], "like": [point]}
    write_json(tmp_path, files.CALIBRATION, {"bins": bins, "test": rates, "validation": {}})

    tried = (Trial(settings={}, ndcg_10=0.0898), Trial(settings={}, ndcg_10=0.1125))
    chosen: dict[str, Setting] = {"half_life": None, "steps": (1.0, 0.5)}
    tuned = BaselineSettings(chosen=chosen, ndcg_10=0.1125, tried=tried)
    both = {"markov_blend": tuned, "ease": BaselineSettings(chosen={"regularisation": 300.0})}
    write_settings(tmp_path, TunedBaselines(fingerprint="abc", baselines=both))

    page = render_page(tmp_path, MANIFEST)

    assert "<td>half life none, steps 1 / 0.5</td><td>2</td><td>0.0898</td><td>0.1125</td>" in page
    assert "<td>regularisation 300</td><td>0</td><td>\u2013</td><td>not tuned</td>" in page
    assert page.count("<svg") == 2 + 8
    assert "<td>0.644 <span" in page
    assert "+0.0130" in page
    assert "+10.0%" in page
    assert "<td>.012</td>" in page
    assert "1,234" in page
    assert "last 2-5 watches" in page
    assert "0.700 in 123" in page
    assert "0.1300 ± 0.0100" in page
    assert "<td>0.987</td>" in page
    assert "0.9876 ± 0.0123" in page
    assert "2:05 min" in page
    assert "3:03 min" in page


def test_the_page_is_written_to_the_given_path(tmp_path: Path) -> None:
    write_small_report(tmp_path)
    assert write_page(tmp_path, MANIFEST) == tmp_path / "index.html"
    path = write_page(tmp_path, MANIFEST, tmp_path / "docs" / "films.html")
    assert path.read_text().startswith("<!doctype html>")
    with pytest.raises(VireoError, match=r"cannot write .*give another file"):
        write_page(tmp_path, MANIFEST, tmp_path)
    with pytest.raises(VireoError, match="vireo evaluate --data films & more"):
        render_page(tmp_path / "docs", MANIFEST)
