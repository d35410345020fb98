"""The sections of the page, in order: what each says, and from which file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.evaluation import report as files
from training.evaluation.baselines.settings import SETTINGS_FILE
from training.evaluation.page import figures, tables
from training.evaluation.page.tables import Document, Table
from training.evaluation.report import read_json

SOURCES, ABLATIONS, DIVERSITY = "sources.json", "ablations.json", "diversity.json"
COLD_START, SEEDS = "cold_start.json", "seeds.json"


@dataclass(frozen=True)
class Figure:
    """An inline SVG with what it shows."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A heading with text, figures and tables; or else why there are none."""

    title: str
    text: str
    file: str
    """What it was made from, in the report's folder."""
    command: str
    """What makes that file."""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether the file isn't there."""
        return not self.figures and not self.tables


@dataclass(frozen=True)
class _Plan:
    title: str
    text: str
    file: str
    option: str
    """Of `vireo evaluate`, or a whole command."""
    figures: Callable[[Document], list[Figure]] = lambda _: []
    tables: Callable[[Document], list[Table]] = lambda _: []

    def filled(self, folder: Path, data: str) -> Section:
        """The section of a report's folder."""
        document = read_json(folder, self.file)
        command = self.option.replace("DATA", data)
        shown = (tuple(self.figures(document)), tuple(self.tables(document))) if document else ()
        return Section(self.title, self.text, self.file, command, *shown)


def sections(folder: Path, data: str) -> list[Section]:
    """Every section of the page of a report's folder, those without a file too."""
    return [_systems(folder, data), *(plan.filled(folder, data) for plan in _PLANS)]


def _systems(folder: Path, data: str) -> Section:
    """The first section, of two files: intervals and tests are there only when asked for."""
    metrics, comparison = read_json(folder, files.METRICS), read_json(folder, files.COMPARISON)
    text = (
        "Each system ranks every video that the viewer hasn't watched; measured is where the one "
        "held-out video comes. Small figures are 95% bootstrap intervals over viewers. p: paired "
        "permutation test of the viewers' NDCG@10, corrected for the number of tests (Holm)."
    )
    drawn = [Figure("NDCG@10 with intervals", figures.headline(comparison))] if comparison else []
    shown = [tables.systems(metrics, comparison)] if metrics else []
    name = f"{files.METRICS}, {files.COMPARISON}" if comparison else files.METRICS
    command = f"vireo evaluate --data {data} --baselines"
    return Section("Systems", text, name, command, tuple(drawn), tuple(shown))


def _slice_figures(document: Document) -> list[Figure]:
    return [Figure(slicing["title"], figures.slices(slicing)) for slicing in document.values()]


def _cold_viewers(document: Document) -> dict[str, Document]:
    new = {f"first {watches} watches": found for watches, found in document["viewers"].items()}
    late = document.get("late_viewers", {}).items()
    return new | {f"last {watches} watches": found for watches, found in late}


def _cold_figures(document: Document) -> list[Figure]:
    new_videos = {"new videos": document["videos"]}
    return [
        Figure(
            "NDCG@10 of viewers of whom little is known",
            figures.groups(_cold_viewers(document), "ndcg_10"),
        ),
        Figure("Recall@100 of new videos", figures.groups(new_videos, "recall_100")),
    ]


def _cold_tables(document: Document) -> list[Table]:
    return [tables.groups(_cold_viewers(document) | {"new videos": document["videos"]})]


_PLANS = (
    _Plan(
        "Recall by length of list",
        "How often the held-out video is among the first k. The chain's list ends with its "
        "candidates, a served list with its hundredth video.",
        files.RECALL,
        "vireo evaluate --data DATA",
        lambda document: [Figure("Recall@k", figures.recall(document))],
    ),
    _Plan(
        "For whom, and for what",
        "NDCG@10 in groups of viewers and of held-out videos, with 95% intervals.",
        files.SLICES,
        "vireo evaluate --data DATA --baselines",
        _slice_figures,
    ),
    _Plan(
        "Settings of the baselines",
        "Chosen on validation: the baselines were fitted on all before each viewer's last watch "
        "before the held-out one, which they were then asked for. Half-lives are in watches back "
        "in a viewer's history. The file has each grid and all that was tried.",
        SETTINGS_FILE,
        "vireo evaluate study baselines --data DATA",
        tables=lambda document: [tables.baselines(document)],
    ),
    _Plan(
        "Candidate sources",
        "How many of the held-out videos each source finds by itself, all of them together, and "
        "all but one, in k candidates; and how many are among the k best of any source, which are "
        "more candidates than k.",
        SOURCES,
        "vireo evaluate study sources --data DATA",
        lambda document: [Figure("Recall of the candidates", figures.sources(document))],
        lambda document: [tables.sources(document)],
    ),
    _Plan(
        "Ablations",
        "The ranker trained again without one source, or one of its inputs. p: paired permutation "
        "test of the viewers' NDCG@10 (Holm).",
        ABLATIONS,
        "vireo evaluate study ablations --data DATA NAME",
        tables=lambda document: [tables.ablations(document)],
    ),
    _Plan(
        "Diversity",
        "What re-ranking for diversity costs: a point for each strength, the released one ringed.",
        DIVERSITY,
        "vireo evaluate study diversity --data DATA",
        lambda document: [Figure("NDCG@10 against diversity", figures.diversity(document))],
    ),
    _Plan(
        "Cold start",
        "Towers trained for this without some viewers and videos, then asked for those: what a "
        "viewer watches after the first few watches, what a viewer watches last where only the "
        "last few before it are known, and videos that nobody has watched.",
        COLD_START,
        "vireo evaluate study cold-start --data DATA",
        _cold_figures,
        _cold_tables,
    ),
    _Plan(
        "Popularity bias",
        "Which tenth of the catalogue the ten best come from, beside all watches.",
        files.POPULARITY,
        "vireo evaluate --data DATA",
        lambda document: [Figure("Share of places by popularity", figures.popularity(document))],
    ),
    _Plan(
        "Calibration",
        "Watching is predicted of every candidate, liking of the held-out videos. Predicted over "
        "observed, with its 95% interval over viewers, is 1 where as many are predicted as happen. "
        "Calibration error is the mean gap over ten bins of equal width, which is small for "
        "whatever seldom happens. On validation each fifth of the viewers is measured by a "
        "calibration fitted on the others. The figure has ten bins of equally many predictions.",
        files.CALIBRATION,
        "vireo evaluate --data DATA",
        lambda document: [Figure("Calibration of each task", figures.calibration(document))],
        lambda document: [tables.calibration(document)],
    ),
    _Plan(
        "Learning curves",
        "How training went.",
        files.LEARNING,
        "vireo train --data DATA",
        lambda document: [Figure("Losses and validation measures", figures.learning(document))],
    ),
    _Plan(
        "Seeds",
        "The same training from several seeds, each its own release, tested once. The interval is "
        "Student's t over seeds; training is the whole command, evaluation included, and of one "
        "core its processor time.",
        SEEDS,
        "python -m bench.seeds --data DATA",
        tables=lambda document: [tables.seeds(document)],
    ),
)
