"""Stacks to hurt: with the online store in SQLite, or in Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

from bench.chaos.chain import Chain
from bench.chaos.findings import Findings, Judge
from bench.chaos.home import prepared, prepared_with
from bench.chaos.plan import ChaosPlan
from bench.chaos.small_disk import small_log_disk
from bench.stack import OwnStack
from bench.valkey import Valkey, running_valkey
from vireo.server.home import Home
from vireo.training.features.watches import load_watches

_KNOWN_VIDEOS, _UNKNOWN_VIDEOS = 200, 50


@contextmanager
def running_chain(
    home: Home,
    dataset: str,
    plan: ChaosPlan,
    console: Console,
    *,
    on_redis: bool,
    bench: str = "chaos",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Chain]:
    """Run a stack on a home of its own.

    With SQLite it has a copy of the home's features, and a small disk for the log if this process
    may mount one. With Redis its features are built into a server of its own.

    Args:
        home: has a release that was trained on the data set.
        dataset: its name.
        plan: of the chain.
        console: for progress.
        on_redis: whether the online store is Redis rather than SQLite.
        bench: name of its folder below the home.
        settings: further variables of the stack.

    Raises:
        VireoError: it can't be set up or started.
    """
    if not on_redis:
        stack = prepared(home, dataset, console, bench, settings)
        with small_log_disk(stack.home), stack.running():
            yield _chain(stack, dataset, plan)
        return
    with running_valkey(home.root / "bench" / bench / "valkey") as valkey:
        redis = {"VIREO_ONLINE_STORE": "redis", "VIREO_REDIS_URL": valkey.url}
        stack = prepared_with(home, dataset, console, bench, {**redis, **(settings or {})})
        valkey.save()
        with stack.running():
            yield _chain(stack, dataset, plan, valkey)


def _chain(stack: OwnStack, dataset: str, plan: ChaosPlan, valkey: Valkey | None = None) -> Chain:
    judge = _judge(stack.home, dataset, plan.viewers)
    known = frozenset[str]().union(*judge.watched.values())
    videos = [*sorted(known)[:_KNOWN_VIDEOS], *map("unheard-of-{}".format, range(_UNKNOWN_VIDEOS))]
    findings = Findings(0, judge, stack.home.logs / "failures.jsonl", plan.patience)
    return Chain(stack, dataset, list(judge.watched), plan, findings, videos, valkey)


def _judge(home: Home, dataset: str, viewers: int) -> Judge:
    """Return the judge of the viewers to ask for: the data set's first, then strangers."""
    watches = load_watches(home, dataset)
    watches = watches[watches["part"] != "test"]  # gateways don't know what is held out
    by_viewer = watches.groupby("viewer_id", sort=False)["video_id"].agg(frozenset).head(viewers)
    known = {str(viewer): watched for viewer, watched in by_viewer.items()}
    strangers = (f"stranger-{number}" for number in range(viewers - len(known)))
    return Judge({**known, **dict.fromkeys(strangers, frozenset())})
