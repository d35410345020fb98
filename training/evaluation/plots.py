"""The report's plots, as PNG files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.metrics import recall

LEARNING = "learning_curves.png"
RECALL = "recall_by_k.png"
CALIBRATION = "calibration.png"
POPULARITY = "popularity_bias.png"

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a learning curve; none where there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot_learning(
    path: Path, retrieval: Sequence[Mapping[str, Any]], ranking: Sequence[Mapping[str, Any]]
) -> None:
    """Losses and held-out measures of both models, epoch by epoch."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    _line(axes[0, 0], retrieval, "epoch", {"loss": "training"})
    axes[0, 0].set(title="Retrieval: cross-entropy", xlabel="epoch", ylabel="loss")
    measures = {"hit_rate_10": "HR@10", "ndcg_10": "NDCG@10", "recall_100": "Recall@100"}
    _line(axes[0, 1], retrieval, "epoch", measures)
    axes[0, 1].set(title="Retrieval: validation", xlabel="epoch", ylim=(0, None))
    steps = [{"step": step, **point} for step, point in enumerate(ranking, 1)]
    for axis, task in ((axes[1, 0], "watch"), (axes[1, 1], "like")):
        _line(axis, steps, "step", {f"{task}_loss": "fit", f"held_out_{task}_loss": "held out"})
        full = [point["step"] for point in steps if point["part"] == "full"]
        if full:
            axis.axvline(full[0] - 0.5, color="grey", linestyle=":", label="all of the model")
        axis.set(title=f"Ranker: {task} loss", xlabel="epoch, linear part first")
    _save(figure, path)


def plot_recall(path: Path, ranks: Mapping[str, IntArray], cutoffs: Sequence[int]) -> None:
    """Recall by the length of the list, one line a system."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axis = figure.subplots()
    for name, places in ranks.items():
        axis.plot(cutoffs, [recall(places, k) for k in cutoffs], marker=".", label=name)
    axis.set(
        title="Recall of the held-out watch, all unwatched videos ranked",
        xlabel="k",
        ylabel="recall@k",
        xscale="log",
        ylim=(0, 1),
    )
    _save(figure, path)


def plot_calibration(
    path: Path, tasks: Mapping[str, tuple[FloatArray, npt.NDArray[np.bool_]]]
) -> None:
    """Predicted against observed rate of each task, in ten bins of equally many."""
    figure = Figure(figsize=(5 * len(tasks), 5), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axis, (task, (predicted, happened)) in zip(axes, tasks.items(), strict=True):
        bins = [part for part in np.array_split(np.argsort(predicted), 10) if len(part)]
        expected = [float(predicted[part].mean()) for part in bins]
        observed = [float(happened[part].mean()) for part in bins]
        top = max([*expected, *observed, 1e-6]) * 1.05
        axis.plot([0, top], [0, top], color="grey", linestyle=":", label="perfect")
        axis.plot(expected, observed, marker="o", label="a tenth of the predictions")
        axis.set(
            title=f"Calibration: {task}",
            xlabel="predicted probability",
            ylabel="observed rate",
            xlim=(0, top),
            ylim=(0, top),
        )
    _save(figure, path)


def popularity_shares(counts: IntArray, slates: IntArray) -> FloatArray:
    """Share of the places of `slates` that each decile of videos takes, float[10].

    Args:
        counts: watches of each video, int[n]; the first decile has the most watched.
        slates: rows, any shape, -1 for none.
    """
    decile = np.empty(len(counts), np.int64)
    order = np.argsort(-np.asarray(counts), kind="stable")
    decile[order] = np.arange(len(counts)) * 10 // max(len(counts), 1)
    taken = np.bincount(decile[slates[slates >= 0]], minlength=10).astype(np.float64)
    shares: FloatArray = taken / max(taken.sum(), 1.0)
    return shares


def plot_popularity(path: Path, shares: Mapping[str, FloatArray]) -> None:
    """How much of the first ten places, and of the watches, each popularity decile has."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / max(len(shares), 1)
    for place, (name, share) in enumerate(shares.items()):
        axis.bar(np.arange(10) + place * width, share, width, label=name)
    axis.set(
        title="Popularity bias: what the most and least watched tenths of the catalogue get",
        xlabel="decile of videos by watches, most watched first",
        ylabel="share",
        xticks=np.arange(10) + 0.4 - width / 2,
        xticklabels=[str(number) for number in range(1, 11)],
    )
    _save(figure, path)


def _line(
    axis: Axes, points: Sequence[Mapping[str, Any]], x: str, names: Mapping[str, str]
) -> None:
    for name, label in names.items():
        known = [point for point in points if name in point]
        if known:
            axis.plot([p[x] for p in known], [p[name] for p in known], marker=".", label=label)


def _save(figure: Figure, path: Path) -> None:
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
