"""`vireo train`: train on a data set and stage a release to publish."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vireo.ops.cli.archive import ArchiveOption, LastOption, archived, time_of
from vireo.ops.cli.options import DataOption, ForceOption, JsonOption, RandomSeedOption
from vireo.ops.cli.output import print_json
from vireo.server.features.activity import Bounce
from vireo.server.home import Home
from vireo.training.data.dataset import DatasetInfo, describe_dataset
from vireo.training.fit import train_all
from vireo.training.profile import choose_profile, load_profile, training_memory
from vireo.training.ranking.shown_lists import ShownLog, read_log

_BASELINES = {"popularity": "popularity", "item_knn": "item-kNN", "ease": "EASE"}
_MUST_BEAT = ("popularity", "item_knn")
_FEW_VIEWERS = 300
"""With fewer, an NDCG@10 is known to some .02 only."""
_FEW_WATCHES = 20
"""Watches of a video, on average, below which little is known of most."""
_LOG_TIME = "30d"
"""Time of the archive that is read unless another is asked for."""


def train(
    data: DataOption = "",
    profile: Annotated[
        str,
        typer.Option(
            help="Settings: demo (minutes), quality, large (a million videos), quick (seconds, "
            "to try things out), or a file NAME.toml. By the size of the data if absent."
        ),
    ] = "",
    seed: RandomSeedOption = None,
    refit: Annotated[
        bool,
        typer.Option(
            help="Continue on every watch after measuring the first fit on each viewer's held-out "
            "last watch. Otherwise the measured release, which has never seen those watches, is "
            "the one to publish."
        ),
    ] = True,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard the results of earlier runs.")
    ] = False,
    force: ForceOption = False,
    from_log: Annotated[
        bool,
        typer.Option(
            "--from-log",
            help="Also train the ranking model on the slates of --last, 30d if absent, or of "
            "--archive, and on what viewers played of them.",
        ),
    ] = False,
    last: LastOption = "",
    archive: ArchiveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train both models and stage a release; after Ctrl-C, run it again to resume.

    It fails if the towers are worse than the most watched videos; --force stages the release all
    the same.

    vireo train --data mine

    vireo train --data mine --from-log
    """
    home, errors = Home.current(), Console(stderr=True, highlight=False)
    info = describe_dataset(home, data)
    if not profile:
        profile, said = choose_profile(info, refit=refit)
        errors.print(said, soft_wrap=True)
    settings = load_profile(profile)
    errors.print(f"{data}: {training_memory(info, settings)}", soft_wrap=True)
    if (last or archive) and not from_log:
        raise typer.BadParameter("--last and --archive say what --from-log reads; add it")
    log = _log(last, archive, info, settings.ranking.slates) if from_log else None
    manifest = train_all(
        home,
        data,
        profile,
        seed=seed,
        refit=refit,
        fresh=fresh,
        force=force,
        log=log,
        console=errors,
    )
    if lost := shortfall(manifest.metrics, info):
        errors.print(f"[bold red]{lost}[/]", soft_wrap=True)
    if as_json:
        print_json(manifest)
        return
    console = Console(highlight=False)
    figures = _ndcg_10(manifest.metrics)
    if "chain" in figures:
        chain, beside = figures.pop("chain"), _listed(figures)
        console.print(f"NDCG@10 on the held-out watches: [bold]{chain:.3f}[/] ({beside})")
        console.print(f"report:  {home.measuring.run(data) / 'report'}", soft_wrap=True)
    console.print(f"release: [bold]{manifest.release_id}[/], publish it with:")
    console.print(f"  vireo release publish --data {data}", soft_wrap=True)


def _log(last: str, archive: Path | None, info: DatasetInfo, limit: int) -> ShownLog:
    """Return what was shown; nothing of what it is read from stays on the disk."""
    since = time_of(last or ("" if archive else _LOG_TIME))
    with archived(archive, since, "slates", "events") as files:
        return read_log(files["slates"], files["events"], info.bounce or Bounce(), limit)


def shortfall(metrics: Mapping[str, float], info: DatasetInfo) -> str:
    """Return the baselines whose NDCG@10 a release doesn't exceed, and the likeliest reason.

    Args:
        metrics: those of the release's manifest.
        info: the data set that it was trained on.

    Returns:
        One line; empty if the release beats them all, or nothing was held out.
    """
    figures = _ndcg_10(metrics)
    chain = figures.get("chain")
    ahead = {name: figures[name] for name in _MUST_BEAT if name in figures}
    ahead = {name: value for name, value in ahead.items() if chain is not None and value >= chain}
    if chain is None or not ahead:
        return ""
    watches = info.watches / max(info.videos, 1)
    towers = metrics.get("two_tower.ndcg_10", 0.0)
    if info.viewers < _FEW_VIEWERS:
        reason = f"{info.viewers:,} viewers are too few to tell the difference"
    elif watches < _FEW_WATCHES:
        reason = f"with {watches:.1f} watches a video, models learn little of most videos"
    elif towers < max(ahead.values()):
        reason = f"the towers learned less ({towers:.3f}): give them more epochs in a profile"
    else:
        held = metrics.get("ranker.candidate_recall", 0.0)
        reason = f"candidates hold {held:.0%} of the held-out videos, and the ranker orders them so"
    return f"NDCG@10 is {chain:.3f}, no better than {_listed(ahead)}: {reason}"


def _ndcg_10(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the NDCG@10 of the chain and of the baselines, as far as they were measured."""
    found = {name: metrics.get(f"{name}.ndcg_10") for name in ("chain", *_BASELINES)}
    return {name: value for name, value in found.items() if value is not None}


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{_BASELINES[name]} {value:.3f}" for name, value in figures.items())
