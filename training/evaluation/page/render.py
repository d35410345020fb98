"""Rendering of a report's page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2

from server.errors import VireoError
from server.releases.manifest import Manifest
from training.evaluation import report as files
from training.evaluation.baselines.settings import SETTINGS_FILE
from training.evaluation.page import figures, tables
from training.evaluation.page.tables import Document, Table
from training.evaluation.report import METRICS, SERVED, read_json

INDEX = "index.html"


@dataclass(frozen=True)
class Figure:
    """An inline SVG and its caption."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A heading with text, figures and tables, or with the command that measures them."""

    title: str
    text: str
    file: str
    """File of the report that it is made from."""
    command: str
    """Command that writes the file."""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return not self.figures and not self.tables


@dataclass(frozen=True)
class _Plan:
    title: str
    text: str
    file: str
    command: str
    figures: Callable[[Document], list[Figure]] = lambda _: []
    tables: Callable[[Document], list[Table]] = lambda _: []

    def filled(self, folder: Path, data: str) -> Section:
        """Return the section for a report's folder."""
        document = read_json(folder, self.file)
        command = self.command.replace("DATA", data)
        shown = (tuple(self.figures(document)), tuple(self.tables(document))) if document else ()
        return Section(self.title, self.text, self.file, command, *shown)


def sections(folder: Path, data: str) -> list[Section]:
    """Return every section for a report's folder, those without a file included."""
    return [_systems(folder, data), *(plan.filled(folder, data) for plan in _PLANS)]


def _systems(folder: Path, data: str) -> Section:
    """Return the first section, made from two files: intervals and tests are optional."""
    metrics, comparison = read_json(folder, files.METRICS), read_json(folder, files.COMPARISON)
    text = (
        "Each system ranks every video that the viewer hasn't watched; the measures depend on the "
        "rank of the one held-out video. Small figures are 95% bootstrap intervals over viewers. "
        "p: paired permutation test of the viewers' NDCG@10, corrected by Holm's method."
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
            "NDCG@10 of viewers with few known watches",
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
        "candidates, a served list after 100 videos.",
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
        "Chosen on validation: the baselines were fitted on all watches before each viewer's last "
        "one before the held-out watch, and ranked that one. Half-lives are in watches of a "
        "viewer's history. The file has each grid and all trials.",
        SETTINGS_FILE,
        "vireo evaluate study baselines --data DATA",
        tables=lambda document: [tables.baselines(document)],
    ),
    _Plan(
        "Candidate sources",
        "Share of the held-out videos in k candidates of each source alone, of all together, and "
        "of all but one; and in the k best of any source, which are more than k candidates.",
        files.SOURCES,
        "vireo evaluate study sources --data DATA",
        lambda document: [Figure("Recall of the candidates", figures.sources(document))],
        lambda document: [tables.sources(document)],
    ),
    _Plan(
        "Ablations",
        "The ranker retrained without one source, or one of its inputs. p: paired permutation "
        "test of the viewers' NDCG@10 (Holm).",
        files.ABLATIONS,
        "vireo evaluate study ablations --data DATA NAME",
        tables=lambda document: [tables.ablations(document)],
    ),
    _Plan(
        "Diversity",
        "Cost of re-ranking for diversity: a point for each strength, the released one ringed.",
        files.DIVERSITY,
        "vireo evaluate study diversity --data DATA",
        lambda document: [Figure("NDCG@10 against diversity", figures.diversity(document))],
    ),
    _Plan(
        "Cold start",
        "Towers trained for this without some viewers and videos, which they then predict: a "
        "viewer's next watch after the first few, a viewer's last watch from the few before it, "
        "and watches of videos that nobody had watched.",
        files.COLD_START,
        "vireo evaluate study cold-start --data DATA",
        _cold_figures,
        _cold_tables,
    ),
    _Plan(
        "Popularity bias",
        "The tenth of the catalogue that the ten best come from, beside all watches.",
        files.POPULARITY,
        "vireo evaluate --data DATA",
        lambda document: [Figure("Share of places by popularity", figures.popularity(document))],
    ),
    _Plan(
        "Calibration",
        "Watches are predicted for every candidate, likes for the held-out videos. Predicted over "
        "observed, with its 95% interval over viewers, is 1 if as many are predicted as happen. "
        "Calibration error is the mean gap over ten bins of equal width, which is small for rare "
        "events. On validation each fifth of the viewers is measured with a calibration fitted on "
        "the others. The figure has ten bins of equally many predictions.",
        files.CALIBRATION,
        "vireo evaluate --data DATA",
        lambda document: [Figure("Calibration of each task", figures.calibration(document))],
        lambda document: [tables.calibration(document)],
    ),
    _Plan(
        "Learning curves",
        "Losses and validation measures during training.",
        files.LEARNING,
        "vireo train --data DATA",
        lambda document: [Figure("Losses and validation measures", figures.learning(document))],
    ),
    _Plan(
        "Seeds",
        "The same training from several seeds, each its own release, tested once. The interval is "
        "Student's t over seeds, and of systems wider by the noise of the viewers whom all seeds "
        "share; training is the time of the whole command, evaluation included, "
        "and of one core its CPU time.",
        files.SEEDS,
        "python -m bench.seeds --data DATA",
        tables=lambda document: [tables.seeds(document)],
    ),
)


def render_page(folder: Path, manifest: Manifest) -> str:
    """Return the self-contained HTML page of the report in `folder`, of this release.

    Raises:
        VireoError: the folder has no report.
    """
    metrics = read_json(folder, METRICS)
    if not metrics:
        raise VireoError(
            f"{folder} has no {METRICS}; make it with: vireo evaluate --data {manifest.dataset}"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(
        manifest=manifest,
        viewers=metrics["viewers"],
        videos=metrics["videos"],
        served=read_json(folder, SERVED),
        ranker=metrics.get("ranker", {}),
        sections=sections(folder, manifest.dataset),
    )


def write_page(folder: Path, manifest: Manifest, path: Path | None = None) -> Path:
    """Write the page to a file, INDEX in `folder` by default, and return its path.

    Raises:
        VireoError: there is no report, or the file can't be written.
    """
    path = path or folder / INDEX
    text = render_page(folder, manifest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VireoError(f"cannot write {path}: {error.strerror}; give another file") from error
    return path
