"""All measurements of speed, one after the other; chain and tail on one stack.

The release of a large catalogue is served where there is one: it is what a slate of production
costs. What only such a catalogue has is measured then, too.

vireo bench all
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from rich.console import Console

from bench.speed.catalogue import CataloguePlan, measure_catalogue
from bench.speed.chain import ChainPlan, chain_rows
from bench.speed.pods import PodsPlan, measure_pods
from bench.speed.rank import RankPlan, measure_rank
from bench.speed.row import Row
from bench.speed.search import SearchPlan, measure_search
from bench.speed.stand import stand
from bench.speed.tail import TailPlan, tail_rows
from bench.speed.tower import TowerPlan, measure_tower
from server.home import Home


@dataclass(frozen=True)
class EveryPlan:
    """How much to do of each."""

    chain: ChainPlan = field(default_factory=ChainPlan)
    tail: TailPlan = field(default_factory=TailPlan)
    rank: RankPlan = field(default_factory=RankPlan)
    tower: TowerPlan = field(default_factory=TowerPlan)
    search: SearchPlan = field(default_factory=SearchPlan)
    pods: PodsPlan = field(default_factory=PodsPlan)
    catalogue: CataloguePlan = field(default_factory=CataloguePlan)

    @staticmethod
    def of(rounds: int) -> EveryPlan:
        """Everything as by default, so many times."""
        return EveryPlan(
            ChainPlan(rounds=rounds),
            TailPlan(rounds=rounds),
            RankPlan(rounds=rounds),
            TowerPlan(rounds=rounds),
            SearchPlan(rounds=rounds),
            PodsPlan(rounds=rounds),
            CataloguePlan(rounds=rounds),
        )


def measure_all(
    home: Home, dataset: str, large: str, small: str, plan: EveryPlan, console: Console
) -> Iterator[Row]:
    """The rows of each measurement as it ends.

    Args:
        home: where everything was trained.
        dataset: whose release the chain and the ranking pod serve where `large` has none.
        large: data set with a large catalogue.
        small: data set with a small one, to compare with.
        plan: how much to do of each.
        console: where progress is shown.

    Raises:
        VireoError: nothing was trained, something does not start, or an answer is wrong.
    """
    scaled = home.staged_release(large).exists()
    served = large if scaled else dataset
    with stand(home, served, "chain") as running:
        questions = running.questions(plan.chain.viewers)
        yield from _of("chain", asyncio.run(chain_rows(running, questions, plan.chain, console)))
        yield from _of("tail", asyncio.run(tail_rows(running, questions, plan.tail, console)))
    yield from _of("rank", measure_rank(home, served, plan.rank, console))
    towers = dataset if home.staged_release(dataset).exists() else served
    yield from _of("tower", measure_tower(home, towers, plan.tower, console))
    if not scaled:
        console.print(f"no release of {large}: what a large catalogue costs is left out")
        return
    yield from _of("search", measure_search(home, large, plan.search, console))
    yield from _of("pods", measure_pods(home, large, plan.pods, console))
    yield from _of("catalogue", measure_catalogue(home, large, small, plan.catalogue, console))


def _of(section: str, rows: Iterable[Row]) -> Iterator[Row]:
    return (replace(row, section=section) for row in rows)
