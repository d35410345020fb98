"""The whole of training: a measured fit, then the fit that is served.

The first holds out each viewer's last watch and is measured on it: `training.fit`. The second goes
on from it with every watch, and is what viewers get: `training.refit`. How the two belong together
is told in `training.release.measured`.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from server.home import Home
from server.releases.manifest import Manifest
from training.data.dataset import load_dataset
from training.fit import fit
from training.heartbeat import heartbeat
from training.inputs import ensure_features
from training.measuring import measuring_home
from training.profile import Profile, load_profile
from training.refit import refit as fit_to_every_watch
from training.retrieval.data import RetrievalData
from training.retrieval.distributed import Processes
from training.retrieval.ensemble import train_towers
from training.retrieval.sequences import SequenceFile
from training.retrieval.train import TrainingInterruptedError
from training.run import Run


def train_all(
    home: Home,
    dataset: str,
    profile: str = "demo",
    *,
    seed: int | None = None,
    refit: bool = True,
    fresh: bool = False,
    console: Console | None = None,
) -> Manifest:
    """Train on a data set, stage the release, and return its manifest.

    Started by torchrun, the processes share the first fit of the towers; the first does everything
    else, and the others end before it: `SystemExit` is how this function leaves them.

    Args:
        home: where everything lies.
        dataset: name of an imported data set.
        profile: name of the settings.
        seed: of everything random, in place of the profile's.
        refit: go on with every watch once the held-out ones have been used to measure. If
            not, the measured release itself is staged, which has never seen them.
        fresh: forget what earlier runs have done.
        console: where the steps are announced.

    Raises:
        DatasetMissingError: there is no such data set.
        TrainingInterruptedError: Ctrl-C; the same call goes on from there.
        LeakError: something of a test watch, or of after it, would be learned from.
        VireoError: anything else that the user can mend.
    """
    console = console or Console(stderr=True, highlight=False)
    settings = _seeded(load_profile(profile), seed)
    # The exporter warns of every package that it could have used.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    processes = Processes.joined()
    if not processes.leads:
        _train_along(dataset, settings, processes)
        processes.leave()
        raise SystemExit(0)
    tables = load_dataset(home, dataset)
    measuring = measuring_home(home)
    if fresh:
        for each in (home, measuring):
            Run(each.run(dataset)).forget()
    with heartbeat(console, f"training on {dataset}"):
        console.rule("first fit: each viewer's last watch is held out, to measure on")
        manifest = fit(measuring, tables, settings, console, processes)
        processes.leader_says("")
        processes.leave()
        if not refit:
            # What viewers are served with is of every watch, whatever their models have seen.
            ensure_features(home, tables, "none", console)
            Run(home.run(dataset)).stage_copy(measuring.staged_release(dataset))
            return manifest
        console.rule("second fit: it goes on with every watch, to serve")
        return fit_to_every_watch(home, measuring, tables, settings, console)


def _train_along(dataset: str, settings: Profile, processes: Processes) -> None:
    """Train the towers of the measured fit along with the leading process, if it says so."""
    while root := processes.leader_says(""):
        home = Home(Path(root))
        tables = ("videos", "viewers")
        videos, viewers = (
            pd.read_parquet(home.data(dataset) / f"{name}.parquet") for name in tables
        )
        run = Run(home.run(dataset))
        data = RetrievalData.open(SequenceFile(run.sequences), videos, viewers)
        with contextlib.suppress(TrainingInterruptedError):  # The first one says so.
            train_towers(data, settings.retrieval, run.checkpoints, processes=processes)


def _seeded(profile: Profile, seed: int | None) -> Profile:
    if seed is None:
        return profile
    return replace(
        profile,
        retrieval=replace(profile.retrieval, seed=seed),
        ranking=replace(profile.ranking, seed=seed),
    )
