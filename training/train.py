"""Training end to end: a measured fit, then the fit that is served; see `vireo.training.fit`."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from vireo.server.home import Home, keep_private
from vireo.server.releases.manifest import Manifest
from vireo.training.data.dataset import load_dataset
from vireo.training.fit import ensure_features, fit
from vireo.training.fit import refit as fit_to_every_watch
from vireo.training.heartbeat import heartbeat
from vireo.training.profile import Profile, load_profile
from vireo.training.run import Run, measuring_home, only_training


def train_all(
    home: Home,
    dataset: str,
    profile: str = "demo",
    *,
    seed: int | None = None,
    refit: bool = True,
    fresh: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> Manifest:
    """Train on a data set, stage the release, and return its manifest.

    Args:
        home: holds data sets, features, runs and releases.
        dataset: name of an imported data set.
        profile: name of the settings.
        seed: replaces the profile's random seed.
        refit: continue on every watch after the first fit is measured. If False, the measured
            release itself is staged, which has never seen the held-out watches.
        fresh: discard the results of earlier runs.
        force: stage the release even if its towers are worse than popularity.
        console: where the steps are announced.

    Raises:
        DatasetMissingError: there is no such data set.
        TrainingInterruptedError: Ctrl-C; the same call resumes.
        VireoError: another process trains on it, or any other error that the user can fix.
    """
    console = console or Console(stderr=True, highlight=False)
    settings = _seeded(load_profile(profile), seed)
    tables = load_dataset(home, dataset)
    keep_private(home.root)
    measuring = measuring_home(home)
    with only_training(home, dataset), heartbeat(console, f"training on {dataset}"):
        if fresh:
            for each in (home, measuring):
                Run(each.run(dataset)).forget()
        console.rule("first fit: each viewer's last watch is held out, to measure on")
        manifest = fit(measuring, tables, settings, console, force=force)
        if not refit:
            # Served features cover every watch, whatever the models were trained on.
            ensure_features(home, tables, "none", console)
            Run(home.run(dataset)).stage_copy(measuring.staged_release(dataset))
            return manifest
        console.rule("second fit: it goes on with every watch, to serve")
        return fit_to_every_watch(home, measuring, tables, settings, console)


def _seeded(profile: Profile, seed: int | None) -> Profile:
    if seed is None:
        return profile
    return replace(
        profile,
        retrieval=replace(profile.retrieval, seed=seed),
        ranking=replace(profile.ranking, seed=seed),
    )
